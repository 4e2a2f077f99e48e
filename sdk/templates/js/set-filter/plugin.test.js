import assert from 'node:assert/strict';
import { test } from 'node:test';

import { drop, keep } from './aligner-sdk/index.js';
import * as testing from './aligner-sdk/testing.js';
import { MyPlugin } from './plugin.js';

test('the first of the same beginning stays', () => {
  const plugin = () => testing.plugin(MyPlugin, { words: 2 });
  const answers = ['As an AI, no.', 'Yes.', 'as an  elephant, yes.', 'As a rule.'];
  const records = answers.map((text, i) => testing.answered(`p-${i}`, 'Why?', text));
  assert.deepEqual(testing.decide(plugin(), [], records), [keep, keep, drop('same-beginning'), keep]);
  const standing = records.slice(0, 1);
  assert.deepEqual(testing.decide(plugin(), standing, records.slice(2)), [drop('same-beginning'), keep]);
});

test('a beginning of no words is refused', () => {
  assert.throws(() => testing.plugin(MyPlugin, { words: 0 }), /`words`/u);
});

test('awkward records get a verdict', () => {
  const records = testing.awkward();
  assert.equal(testing.decide(testing.plugin(MyPlugin), [], records).length, records.length);
});
