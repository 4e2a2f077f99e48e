import { Plugin, UnansweredError, gist, user } from './aligner-sdk/index.js';

const question = (shown) => `People asked an assistant:

${shown.join('\n\n')}

Write one more such message, about something else. Reply with the message alone, on one line.`;

/** Lets the model write a prompt after a few it is shown. */
export class MyPlugin extends Plugin {
  static about = {
    name: 'my-plugin',
    version: '0.1.0',
    summary: 'Lets the model write a prompt after a few it is shown.',
  };
  static config = {
    model: { type: 'string', default: 'policy' },
    examples: { type: 'integer', minimum: 0, default: 3, description: 'How many prompts it is shown.' },
    max_new_tokens: { type: 'integer', minimum: 1, default: 48 },
  };

  /** @type {import('./aligner-sdk/index.js').PromptWriter['write']} */
  write(context, pool, index, ask) {
    const { model, examples, max_new_tokens: maxNewTokens } = this.config;
    // The slot's seed: each draws its own examples, and the same ones when it is called again.
    const shown = ask.rng().choose(examples, pool.length).map((i) => gist(pool[i].text).trim());
    let written;
    try {
      written = ask.generate(model, user(question(shown)), { maxNewTokens });
    } catch (error) {
      // Long examples may not fit the model; those of the next slot may.
      if (error instanceof UnansweredError) return [];
      throw error;
    }
    const lines = written.text.split('\n').map((line) => line.trim()).filter(Boolean);
    return lines.slice(0, 1).map((line) => ({ text: user(line), tags: [`round:${context.round}`] }));
  }

  /** @type {import('./aligner-sdk/index.js').Sampler['select']} */
  select(context, pool) {
    return pool.filter(({ tags }) => tags.includes(`round:${context.round}`)).map(({ id }) => id);
  }
}
