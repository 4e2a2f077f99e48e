import assert from 'node:assert/strict';
import { test } from 'node:test';

import { drop, keep } from './aligner-sdk/index.js';
import * as testing from './aligner-sdk/testing.js';
import { MyPlugin } from './plugin.js';

test('short answers are dropped', () => {
  const plugin = testing.plugin(MyPlugin, { words: 3 });
  const check = (text, expected) => {
    assert.deepEqual(testing.filter(plugin, testing.answered('p-1', 'Is it?', text)), expected);
  };
  check('Yes, it is.', keep);
  check('Yes.', drop('too-short'));
});

test('a bound of no words is refused', () => {
  assert.throws(() => testing.plugin(MyPlugin, { words: 0 }), /`words`/u);
});

test('awkward records get a verdict', () => {
  for (const record of testing.awkward()) {
    assert.match(testing.filter(testing.plugin(MyPlugin), record).tag, /^(keep|drop)$/u);
  }
});
