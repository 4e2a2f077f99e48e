import { Plugin } from './aligner-sdk/index.js';

/** Scores a prompt by how unsure the model is of its own answer, in nats a token. */
export class MyPlugin extends Plugin {
  static about = {
    name: 'my-plugin',
    version: '0.1.0',
    summary: 'Scores a prompt by how unsure the model is of its own answer, in nats a token.',
  };
  static config = {
    model: { type: 'string', default: 'policy' },
    max_new_tokens: { type: 'integer', minimum: 1, default: 32 },
  };

  /** @type {import('./aligner-sdk/index.js').Difficulty['score']} */
  score(context, record, ask) {
    const { model, max_new_tokens: maxNewTokens } = this.config;
    // Ends here until the host has answered; then all of it runs again, and goes on.
    const answer = ask.generate(model, record.prompt.text, { temperature: 0, maxNewTokens });
    return -answer.logprob / answer.tokens;
  }
}
