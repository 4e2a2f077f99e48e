import assert from 'node:assert/strict';
import { test } from 'node:test';

import { chat, raw, user } from './aligner-sdk/index.js';
import * as testing from './aligner-sdk/testing.js';
import { MyPlugin } from './plugin.js';

const plugin = testing.plugin(MyPlugin, { instructions: 'Be good.' });

test('the good variant is under the instructions', () => {
  const [good, plain] = testing.render(plugin, testing.record('p-1', 'Why?'));
  const expected = [
    { speaker: 'system', content: 'Be good.' },
    { speaker: 'user', content: 'Why?' },
  ];
  assert.deepEqual([good.role, good.prompt], ['good', chat(expected)]);
  assert.deepEqual([plain.role, plain.prompt], ['plain', user('Why?')]);
});

test('raw text begins with the instructions', () => {
  const record = testing.record('p-1', 'Why?');
  record.prompt.text = raw('Why?');
  assert.deepEqual(testing.render(plugin, record)[0].prompt, raw('Be good.\n\nWhy?'));
});

test('awkward records are rendered', () => {
  for (const record of testing.awkward()) {
    assert.equal(testing.render(plugin, record).length, 2);
  }
});
