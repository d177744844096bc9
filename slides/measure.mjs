// Renders a deck in chromium and measures every slide: what sticks out, what is too small, which images there are.

import puppeteer from 'puppeteer-core'

// Pixels on a slide of 1280 by 720.
const LEAST = { body: 24, code: 20, figure: 18, foot: 16 }
const TOLERANCE = 1.5

let browser = null

async function openBrowser() {
  const root = process.getuid?.() === 0 // chromium has no sandbox for root
  browser ??= await puppeteer.launch({
    executablePath: process.env.CHROME_PATH || '/usr/bin/chromium',
    args: [...(root ? ['--no-sandbox'] : []), '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars'],
  })
  return browser
}

export async function closeBrowser() {
  await browser?.close()
  browser = null
}

// Runs in the page. Returns for each slide { problems: [text], images: [{ src, alt }] }.
function inPage(LEAST, TOLERANCE) {
  const round = (x) => Math.round(x * 10) / 10

  // The part of a slide that its content may use.
  function contentBox(section) {
    const box = section.getBoundingClientRect()
    const style = getComputedStyle(section)
    const side = (name) => parseFloat(style[`padding${name}`]) + parseFloat(style[`border${name}Width`])
    return {
      left: box.left + side('Left'), right: box.right - side('Right'), top: box.top + side('Top'), bottom: box.bottom - side('Bottom'),
    }
  }

  function textNodes(root) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT)
    const nodes = []
    while (walker.nextNode()) if (walker.currentNode.data.trim()) nodes.push(walker.currentNode)
    return nodes
  }

  function rectsOf(node) {
    if (node.nodeType !== Node.TEXT_NODE) return [node.getBoundingClientRect()]
    const range = document.createRange()
    range.selectNodeContents(node)
    return [...range.getClientRects()]
  }

  // How far the content sticks out, as sentences: the worst on each side.
  function overflow(section) {
    const box = contentBox(section)
    const worst = { right: 0, bottom: 0, left: 0, top: 0 }
    const things = [...textNodes(section), ...section.querySelectorAll('img, pre, table, svg')]
    for (const node of things) {
      if ((node.parentElement ?? node).closest('footer, header')) continue
      for (const r of rectsOf(node)) {
        worst.right = Math.max(worst.right, r.right - box.right)
        worst.bottom = Math.max(worst.bottom, r.bottom - box.bottom)
        worst.left = Math.max(worst.left, box.left - r.left)
        worst.top = Math.max(worst.top, box.top - r.top)
      }
    }
    const found = Object.entries(worst).filter(([, by]) => by > TOLERANCE)
      .map(([side, by]) => `overflows: its content is ${Math.ceil(by)} pixels too far to the ${side}`)
    for (const pre of section.querySelectorAll('pre, td')) {
      const by = pre.scrollWidth - pre.clientWidth
      if (by > TOLERANCE) found.push(`overflows: a ${pre.tagName === 'PRE' ? 'code block' : 'table cell'} is ${by} pixels too wide`)
    }
    return found
  }

  function smallText(section) {
    const seen = new Map()
    for (const node of textNodes(section)) {
      const element = node.parentElement
      const kind = element.closest('footer, header') ? 'foot' : element.closest('pre') ? 'code' : 'body'
      const size = parseFloat(getComputedStyle(element).fontSize)
      if (size < LEAST[kind] && !seen.has(kind)) seen.set(kind, `has text of ${round(size)} pixels ("${node.data.trim().slice(0, 20)}"), ` +
        `the least is ${LEAST[kind]}`)
    }
    return [...seen.values()]
  }

  // A figure's own text: large enough as shown, and inside the figure.
  function figure(img) {
    const name = img.dataset.file
    const parsed = new DOMParser().parseFromString(atob(img.src.split(',')[1]), 'image/svg+xml').documentElement
    if (parsed.querySelector('parsererror')) return [`${name} is no well-formed SVG`]
    const svg = document.importNode(parsed, true)
    const view = svg.viewBox.baseVal
    svg.style.cssText = `position: absolute; left: 0; top: 0; width: ${view.width}px; height: ${view.height}px`
    document.body.append(svg)
    const scale = img.getBoundingClientRect().width / view.width
    const found = []
    for (const part of ['title', 'desc']) {
      if (!svg.querySelector(`:scope > ${part}`)?.textContent.trim()) found.push(`${name} has no <${part}>`)
    }
    const frame = svg.getBoundingClientRect()
    for (const text of svg.querySelectorAll('text')) {
      const size = parseFloat(getComputedStyle(text).fontSize) * scale
      const words = text.textContent.trim().slice(0, 30)
      if (size < LEAST.figure - 0.05) found.push(`${name} has text of ${round(size)} pixels ("${words}"), the least is ${LEAST.figure}`)
      const r = text.getBoundingClientRect()
      if (r.left < frame.left - 1 || r.right > frame.right + 1 || r.top < frame.top - 1 || r.bottom > frame.bottom + 1) {
        found.push(`${name} cuts off its text "${words}"`)
      }
    }
    svg.remove()
    return found
  }

  return [...document.querySelectorAll('section')].map((section) => {
    const images = [...section.querySelectorAll('img')]
    const problems = [...overflow(section), ...smallText(section)]
    for (const img of images) {
      if (img.dataset.file) problems.push(...figure(img))
      else if (!img.naturalWidth) problems.push(`the image ${img.getAttribute('src')} does not exist`)
    }
    // A background image has no place for a text alternative, and an SVG in the text needs one of its own.
    if (getComputedStyle(section).backgroundImage !== 'none') problems.push('has a background image, which cannot have a text alternative')
    for (const svg of section.querySelectorAll('svg')) if (!svg.querySelector('title')) problems.push('has an <svg> without a <title>')
    return { problems, images: images.map((img) => ({ src: img.dataset.file ?? img.getAttribute('src'), alt: img.alt })) }
  })
}

export async function measure(marp, text) {
  const { html, css } = marp.render(text)
  const page = await (await openBrowser()).newPage()
  try {
    await page.setViewport({ width: 1280, height: 720 })
    await page.setContent(`<!DOCTYPE html><meta charset="utf-8"><style>body { margin: 0 } ${css}</style>${html}`, { waitUntil: 'load' })
    return await page.evaluate(`(${inPage})(${JSON.stringify(LEAST)}, ${TOLERANCE})`)
  } finally {
    await page.close()
  }
}
