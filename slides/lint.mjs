// lint.mjs [DECK]...   checks decks (default: all of this directory): swallowed slide breaks, slides that overflow or are too
// small to read, missing text alternatives, speaker notes without a time, questions without an answer.
//
// A complaint is "FILE:LINE: slide N: what is wrong". The last line counts slides: "N passed, M failed". Exit status 0 when
// there is no complaint, 1 when there is one, 3 when the browser does not work.

import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { SLIDES, makeMarp } from './engine.mjs'
import { closeBrowser, measure } from './measure.mjs'

const WORDS_OF_AN_ALTERNATIVE = 3

// --- the source -------------------------------------------------------------------------------------------------------

// What a deck says about itself: "minutes: 60-90" in its front matter is the time that it is planned for.
function plannedMinutes(text) {
  const found = /^---\n[^]*?^minutes:\s*(\d+)-(\d+)\s*$[^]*?^---$/m.exec(text)
  return found && { least: Number(found[1]), most: Number(found[2]) }
}

// The slides as Marp sees them: [{ line, last, tokens, notes }], lines counted from 1.
function slidesOf(marp, text) {
  const tokens = marp.markdown.parse(text, {})
  const slides = []
  for (const token of tokens) {
    if (token.type === 'marpit_slide_open') slides.push({ line: token.map[0] + 1, tokens: [] })
    else slides.at(-1)?.tokens.push(token)
  }
  const { comments } = marp.render(text, { htmlAsArray: true })
  slides.forEach((slide, i) => {
    slide.last = (slides[i + 1]?.line ?? Infinity) - 1
    slide.notes = comments[i] ?? []
    slide.classes = slide.tokens.flatMap((t) => /_class:\s*(.*)/.exec(t.content ?? '')?.[1].split(/\s+/) ?? [])
  })
  return slides
}

// Lines that look like a slide break and are none: what Marp takes them for instead.
function swallowedBreaks(text, slides) {
  const breaks = new Set(slides.map((slide) => slide.line))
  const lines = text.split('\n')
  const frontMatter = lines[0] === '---' ? lines.indexOf('---', 1) + 1 : 0
  const tokens = slides.flatMap((slide) => slide.tokens).filter((token) => token.map)
  return lines.flatMap((line, i) => {
    if (i < frontMatter || breaks.has(i + 1) || !/^[ \t>]*(-[ \t]*){3,}$/.test(line)) return []
    const around = tokens.filter((token) => token.map[0] <= i && i < token.map[1])
    const is = (type) => around.some((token) => token.type.startsWith(type))
    const why = is('heading') ? 'it makes the text above it a heading (put an empty line between them)'
      : is('fence') || is('code') ? 'it is inside a code block'
        : is('marpit_comment') || is('html') ? 'it is inside a comment or other HTML'
          : 'it belongs to the list, table or quotation around it'
    return [{ line: i + 1, text: `"${line.trim()}" starts no new slide: ${why}` }]
  })
}

function minutesOf(slide) {
  const found = /^(\d+(?:\.\d)?) min\b/.exec(slide.notes.join('\n').trim())
  return found ? Number(found[1]) : null
}

function checkNotes(slide) {
  if (!slide.notes.length) return ['has no speaker notes']
  if (minutesOf(slide) === null) return ['its speaker notes do not begin with a time, like "3 min"']
  return []
}

function checkTitle(slide) {
  const titles = slide.tokens.filter((token) => token.type === 'heading_open' && /^h[12]$/.test(token.tag))
  return titles.length === 1 ? [] : [`has ${titles.length} titles (# or ##), not one`]
}

function checkAnswer(slide, next) {
  if (!slide.classes.includes('question') || next?.classes.includes('answer')) return []
  return /^Answer:/m.test(slide.notes.join('\n')) ? [] : ['asks a question that neither the next slide nor the notes ("Answer:") answer']
}

// --- a deck -----------------------------------------------------------------------------------------------------------

// Returns { slides, minutes, questions, complaints: [{ line, slide, text }] }; slide is 0 for what concerns the whole deck.
export async function lint(file) {
  const text = fs.readFileSync(file, 'utf8')
  const marp = makeMarp({ inlineSVG: false })
  const slides = slidesOf(marp, text)
  const complaints = []
  const complain = (slide, what, line) => complaints.push({ slide, line: line ?? slides[slide - 1]?.line ?? 1, text: what })

  for (const { line, text: what } of swallowedBreaks(text, slides)) {
    complain(slides.findIndex((slide) => line >= slide.line && line <= slide.last) + 1, what, line)
  }
  slides.forEach((slide, i) => {
    for (const what of [...checkTitle(slide), ...checkNotes(slide), ...checkAnswer(slide, slides[i + 1])]) complain(i + 1, what)
  })
  const measured = await measure(marp, text)
  measured.forEach((found, i) => {
    for (const what of found.problems) complain(i + 1, what)
    for (const { src, alt } of found.images) {
      if (!alt.trim()) complain(i + 1, `the image ${src} has no text alternative`)
      else if (alt.trim().split(/\s+/).length < WORDS_OF_AN_ALTERNATIVE) {
        complain(i + 1, `the text alternative of ${src} is too short to tell anything: "${alt}"`)
      }
    }
  })
  const minutes = slides.reduce((sum, slide) => sum + (minutesOf(slide) ?? 0), 0)
  const planned = plannedMinutes(text)
  if (!planned) complain(0, 'the front matter does not say how long the deck is to take, like "minutes: 60-90"')
  else if (minutes < planned.least || minutes > planned.most) {
    complain(0, `takes ${minutes} minutes by its notes, planned are ${planned.least} to ${planned.most}`)
  }
  complaints.sort((a, b) => a.slide - b.slide || a.line - b.line)
  const questions = slides.filter((slide) => slide.classes.includes('question')).length
  return { slides: slides.length, minutes, questions, complaints }
}

export function decks() {
  return fs.readdirSync(SLIDES).filter((name) => /^\d\d-.*\.md$/.test(name)).sort().map((name) => path.join(SLIDES, name))
}

async function main(files) {
  let passed = 0
  let failed = 0
  for (const file of files) {
    const name = path.relative(process.cwd(), path.resolve(file))
    const { slides, minutes, questions, complaints } = await lint(file)
    for (const { line, slide, text } of complaints) console.log(`${name}:${line}: ${slide ? `slide ${slide}: ` : ''}${text}`)
    // The deck as a whole counts as one more thing that passes or fails.
    const bad = new Set(complaints.map((complaint) => complaint.slide)).size
    passed += slides + 1 - bad
    failed += bad
    console.log(`${name}: ${slides} slides, ${minutes} minutes by the notes, ${questions} questions`)
  }
  console.log(`${passed} passed, ${failed} failed`)
  return failed ? 1 : 0
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const files = process.argv.slice(2)
  const missing = files.filter((file) => !fs.existsSync(file))
  if (missing.length) {
    console.error(`There is no deck ${missing.join(', ')}.`)
    process.exit(2)
  }
  try {
    process.exitCode = await main(files.length ? files : decks())
  } catch (error) {
    console.error(`lint: ${error.message}`)
    process.exitCode = 3
  } finally {
    await closeBrowser()
  }
}
