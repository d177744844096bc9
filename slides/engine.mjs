// How a deck is rendered: Marp with our theme and without anything that would have to be fetched. Used by marp-cli
// (marp.config.mjs) and by the lint, so what is measured is what is shown.
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { Marp } from '@marp-team/marp-core'

export const SLIDES = path.dirname(fileURLToPath(import.meta.url))

export const OPTIONS = {
  html: true,
  math: false,
  script: false,
  emoji: { shortcode: false, unicode: false },
  slug: false,
}

// Figures become part of the page, so one HTML file is the whole deck. A figure that is not there keeps its address.
function inlineFigures(md) {
  const image = md.renderer.rules.image
  md.renderer.rules.image = (tokens, i, ...rest) => {
    const src = tokens[i].attrGet('src')
    const file = path.join(SLIDES, src)
    if (/^[\w./-]+\.svg$/.test(src) && fs.existsSync(file)) {
      tokens[i].attrSet('src', `data:image/svg+xml;base64,${fs.readFileSync(file).toString('base64')}`)
      tokens[i].attrSet('data-file', src)
    }
    return image(tokens, i, ...rest)
  }
}

// Adds what is ours to a Marp that somebody else made.
export function configure(marp) {
  marp.themeSet.default = marp.themeSet.add(fs.readFileSync(path.join(SLIDES, 'theme.css'), 'utf8'))
  return marp.use(inlineFigures)
}

export function makeMarp(options = {}) {
  return configure(new Marp({ ...OPTIONS, ...options }))
}
