// test-lint.mjs   proves that the lint finds what it is there for: each fixture has exactly the complaints below, no fewer
// and no more. The last line is "N passed, M failed".

import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { SLIDES } from './engine.mjs'
import { lint } from './lint.mjs'
import { closeBrowser } from './measure.mjs'

const FIGURE = 'fixtures/bad-figure.svg'

// [line, slide, how the text begins]
const EXPECTED = {
  'clean.md': [],
  'swallowed-heading.md': [
    [13, 2, 'has 2 titles'],
    [20, 2, '"---" starts no new slide: it makes the text above it a heading'],
  ],
  'swallowed-fence.md': [[16, 1, '"---" starts no new slide: it is inside a code block']],
  'swallowed-comment.md': [[13, 1, '"---" starts no new slide: it is inside a comment']],
  'overflow.md': [
    [13, 2, 'overflows: its content is * pixels too far to the bottom'],
    [34, 3, 'overflows: its content is * pixels too far to the right'],
    [34, 3, 'overflows: a code block is * pixels too wide'],
    [44, 4, 'has text of 15 pixels'],
  ],
  'images.md': [
    [1, 1, 'the image fixtures/figure.svg has no text alternative'],
    [15, 2, 'the text alternative of fixtures/figure.svg is too short'],
    [23, 3, 'has a background image'],
    [31, 4, 'the image fixtures/nowhere.svg does not exist'],
    [39, 5, `${FIGURE} has no <title>`],
    [39, 5, `${FIGURE} has no <desc>`],
    [39, 5, `${FIGURE} has text of 12 pixels ("guest")`],
    [39, 5, `${FIGURE} has text of 12 pixels ("monitor")`],
    [39, 5, `${FIGURE} cuts off its text "monitor"`],
  ],
  'notes.md': [
    [1, 0, 'takes 14 minutes by its notes, planned are 1 to 9'],
    [1, 1, 'has no speaker notes'],
    [11, 2, 'its speaker notes do not begin with a time'],
    [17, 3, 'has 0 titles'],
    [23, 4, 'asks a question that neither'],
  ],
}

const fits = (text, pattern) => {
  const [first, ...rest] = pattern.split('*')
  let at = first.length
  return text.startsWith(first) && rest.every((part) => (at = text.indexOf(part, at)) >= 0)
}

let failed = 0
let passed = 0
const verdict = (name, problems) => {
  for (const problem of problems) console.log(`test-lint: ${name}: ${problem}`)
  problems.length ? failed++ : passed++
}

try {
  for (const [name, expected] of Object.entries(EXPECTED)) {
    const left = (await lint(path.join(SLIDES, 'fixtures', name))).complaints
    const problems = []
    for (const [line, slide, text] of expected) {
      const i = left.findIndex((c) => c.line === line && c.slide === slide && fits(c.text, text))
      if (i < 0) problems.push(`line ${line}, slide ${slide}: missed "${text}"`)
      else left.splice(i, 1)
    }
    verdict(name, [...problems, ...left.map((c) => `line ${c.line}, slide ${c.slide}: not expected "${c.text}"`)])
  }
  // The program's own words and exit status.
  const run = (name) => spawnSync(process.execPath, ['lint.mjs', name], { cwd: SLIDES, encoding: 'utf8' })
  const bad = run('fixtures/swallowed-fence.md')
  verdict('exit status of a bad deck', bad.status === 1 ? [] : [`is ${bad.status}`])
  verdict('a complaint names file, line and slide',
    bad.stdout.startsWith('fixtures/swallowed-fence.md:16: slide 1: ') ? [] : [`printed ${bad.stdout}`])
  verdict('the last line of a bad deck', /\n1 passed, 1 failed\n$/.test(bad.stdout) ? [] : [`printed ${bad.stdout}`])
  const good = run('fixtures/clean.md')
  verdict('a clean deck', good.status === 0 && /\n5 passed, 0 failed\n$/.test(good.stdout) ? [] : [`printed ${good.stdout}`])
  const none = run('fixtures/none.md')
  verdict('a deck that is not there',
    none.status === 2 && none.stderr.includes('no deck fixtures/none.md') ? [] : [`printed ${none.stderr}`])
} finally {
  await closeBrowser()
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed ? 1 : 0
