import { OPTIONS, configure } from './engine.mjs'

export default {
  engine: ({ marp }) => configure(marp),
  options: OPTIONS,
  html: true,
  bespoke: { progress: true },
}
