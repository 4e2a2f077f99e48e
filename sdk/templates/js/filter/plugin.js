import { Plugin, completions, drop, keep } from './aligner-sdk/index.js';

/** Drops records with a completion of too few words. */
export class MyPlugin extends Plugin {
  static about = {
    name: 'my-plugin',
    version: '0.1.0',
    summary: 'Drops records with a completion of too few words.',
  };
  static config = { words: { type: 'integer', minimum: 1, default: 3 } };

  /** @type {import('./aligner-sdk/index.js').Filter['filter']} */
  filter(context, record) {
    const words = (text) => text.split(/\s+/u).filter(Boolean).length;
    const short = completions(record).some(([, { text }]) => words(text) < this.config.words);
    return short ? drop('too-short') : keep;
  }
}
