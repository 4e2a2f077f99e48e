/**
 * What an author of aligner plugins imports: the class `Plugin`, and what makes records handy.
 *
 * A plugin is a pure function over records. It is built into a WebAssembly component that imports
 * nothing but the log, and *asks* for whatever needs a model. A whole filter, with its configuration:
 *
 *     import { Plugin, completions, drop, keep } from './aligner-sdk/index.js';
 *
 *     export class MinWords extends Plugin {
 *       static about = { name: 'min-words', version: '0.1.0', summary: 'Drops answers with too few words.' };
 *       static config = { words: { type: 'integer', minimum: 1, default: 3 } };
 *
 *       filter(context, record, ask) {
 *         const words = (text) => text.split(/\s+/u).filter(Boolean).length;
 *         const short = completions(record).some(([, { text }]) => words(text) < this.config.words);
 *         return short ? drop('too-short') : keep;
 *       }
 *     }
 *
 * It stands in `plugin.js`, the only one there. Its methods say what kind it is; `index.d.ts` has their
 * types. `testing.js` calls it as the host does.
 *
 * There is no clock, no file and no random source: `ask.rng()` (and the seeds that samplers get) are the
 * only randomness.
 */
export { Plugin } from './plugin.js';
export { Ask } from './ask.js';
export { ConfigError, InputError, InternalError, PluginError, UnansweredError } from './errors.js';
export { Rng } from './rng.js';
export * as log from './log.js';
export {
  chat,
  completions,
  drop,
  gist,
  instructionAndInput,
  keep,
  measurement,
  perplexity,
  preference,
  raw,
  revise,
  reward,
  rewards,
  task,
  tie,
  transcript,
  under,
  unparsable,
  user,
  variant,
} from './records.js';
