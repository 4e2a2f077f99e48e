import { Plugin, raw, under } from './aligner-sdk/index.js';

/** Puts each prompt under instructions, and beside it the prompt as it is. */
export class MyPlugin extends Plugin {
  static about = {
    name: 'my-plugin',
    version: '0.1.0',
    summary: 'Puts each prompt under instructions, and beside it the prompt as it is.',
  };
  static config = {
    instructions: {
      type: 'string',
      default: 'Answer truthfully and in a few clear sentences. Say so where you do not know.',
    },
  };

  /** @type {import('./aligner-sdk/index.js').Principle['render']} */
  render(context, { prompt: { text } }) {
    const { instructions } = this.config;
    const good = text.tag === 'raw' ? raw(`${instructions}\n\n${text.val}`) : under(instructions, text);
    return [
      { name: 'good', role: 'good', prompt: good },
      { name: 'plain', role: 'plain', prompt: text },
    ];
  }
}
