import assert from 'node:assert/strict';
import { test } from 'node:test';

import { schema } from '../config.js';
import * as sdk from '../index.js';
import { interfaces } from '../interfaces.js';
import * as out from '../outgoing.js';
import * as testing from '../testing.js';

class Settings extends sdk.Plugin {
  static about = { name: 'settings', version: '1.2.3', summary: 'For tests.' };
  static config = {
    words: { type: 'integer', minimum: 1, default: 3 },
    share: { type: 'number', maximum: 1, default: 0.5 },
    mode: { enum: ['soft', 'very-hard'], default: 'soft' },
    list: { type: 'array', items: { type: 'string' }, default: [] },
    limit: { type: 'integer', default: null },
    inner: { type: 'object', properties: { depth: { type: 'integer' } }, default: null },
  };
}

class Nothing extends sdk.Plugin {
  static about = { name: 'nothing', version: '0.1.0', summary: 'For tests.' };
}

/** Drops what the model calls bad. One plugin of two kinds. */
class Polite extends sdk.Plugin {
  static about = { name: 'polite', version: '1.2.3', summary: 'For tests.', needs: ['perplexity(good)'] };

  filter(context, record, ask) {
    if (record.prompt.id === 'broken') throw new sdk.InputError('no completion');
    if (record.prompt.id === 'crash') return null.x;
    if (record.prompt.id === 'nothing') return undefined;
    if (record.prompt.id === 'later') return Promise.resolve(sdk.keep);
    if (record.prompt.id === 'half') return sdk.drop('🙂'.slice(0, 1));
    const answer = ask.generate('policy', sdk.user(sdk.gist(record.prompt.text)));
    return answer.text === 'bad' ? sdk.drop('impolite') : sdk.keep;
  }

  score(context, record, ask) {
    return ask.rng().uniform();
  }
}

const turn = (id, ...texts) => ({
  record: testing.record(id, 'Hello?'),
  seed: 5,
  answers: texts.map((text) =>
    text === '?' ? { tag: 'unanswered', val: 'too long' } : { tag: 'completion', val: testing.completion(text) },
  ),
});

/** Returns the plugin's interfaces, configured. */
function configured() {
  const all = interfaces({ Polite });
  all.meta.configure('{}');
  return all;
}

function thrown(work) {
  try {
    work();
  } catch (error) {
    return error;
  }
  return assert.fail('nothing was thrown');
}

test('keys that are absent take their default, a copy of it', () => {
  const { config } = testing.plugin(Settings);
  assert.deepEqual(config, { words: 3, share: 0.5, mode: 'soft', list: [], limit: null, inner: null });
  config.list.push('x');
  assert.deepEqual(testing.plugin(Settings).config.list, []);
  assert.equal(testing.plugin(Settings, { share: 1 }).config.share, 1);
  assert.deepEqual(testing.plugin(Nothing).config, {});
});

test('wrong configurations name the key', () => {
  const check = (kind, given, expected) => {
    assert.throws(() => testing.plugin(kind, given), { name: 'ConfigError', message: expected });
  };
  const keys = '`words`, `share`, `mode`, `list`, `limit`, `inner`';
  check(Settings, { wrods: 7 }, `unknown key \`wrods\`, expected one of ${keys}`);
  check(Nothing, { x: 1 }, 'unknown key `x`; this plugin has no configuration');
  check(Settings, { words: 'seven' }, 'key `words`: expected a whole number, found "seven"');
  check(Settings, { words: 1.5 }, 'key `words`: expected a whole number, found 1.5');
  check(Settings, { words: 0 }, 'key `words`: expected at least 1, found 0');
  check(Settings, { share: 2 }, 'key `share`: expected at most 1, found 2');
  check(Settings, { mode: 'hard' }, 'key `mode`: expected one of `soft`, `very-hard`, found "hard"');
  check(Settings, { list: ['a', 1] }, 'key `list[1]`: expected a text, found 1');
  check(Settings, { words: null }, 'key `words`: expected a whole number, found null');
  check(Settings, { inner: {} }, 'missing key `inner.depth`, expected a whole number');
  check(Settings, { inner: { x: 1 } }, 'unknown key `inner.x`, expected `depth`');
  check(Settings, [], 'the configuration is not a JSON object');
});

test('the schema is that of the keys', () => {
  assert.equal(schema({}), '');
  assert.deepEqual(JSON.parse(schema({ a: { type: 'integer' }, b: { type: 'string', default: null } })), {
    type: 'object',
    additionalProperties: false,
    properties: { a: { type: 'integer' }, b: { type: 'string' } },
    required: ['a'],
  });
  assert.throws(() => schema({ a: { type: 'int' } }), /`config.a` has no type/u);
});

test('a chain asks one request at a time, and what is caught in between does not count', () => {
  const chain = (ask) => {
    let text = 'nothing';
    try {
      text = ask.generate('policy', sdk.user('a')).text;
    } catch {
      // An author who catches everything.
    }
    return ask.generate('policy', sdk.user(text)).text;
  };
  const asked = [];
  const answer = (request) => {
    asked.push(sdk.gist(request.val.prompt));
    return { tag: 'completion', val: testing.completion(asked.length === 1 ? 'b' : 'c') };
  };
  assert.equal(testing.run(17, answer, chain), 'c');
  assert.deepEqual(asked, ['a', 'b']);
});

test('all keeps order and asks only what is missing', () => {
  const request = (prompt) => ({ tag: 'score', val: { model: 'policy', prompt: sdk.raw(prompt), completion: 'x' } });
  const score = { tag: 'score', val: { logprob: -2, tokens: 1 } };
  const outcome = sdk.Ask.converse(1, [score], (ask) => ask.all(['a', 'b', 'c'].map(request)));
  assert.deepEqual(outcome, { ask: ['b', 'c'].map(request) });
  assert.deepEqual(sdk.Ask.converse(1, [], (ask) => ask.all([])), { done: [] });
});

test('answers of the wrong sort are errors', () => {
  const with_ = (answer) => () => sdk.Ask.converse(1, [answer], (ask) => ask.reward('judge', sdk.user('a'), 'b'));
  assert.throws(with_({ tag: 'score', val: {} }), { name: 'InternalError' });
  assert.throws(with_({ tag: 'unanswered', val: 'no room' }), { name: 'UnansweredError', message: 'no room' });
});

test('a component describes itself and wants to be configured', () => {
  const { meta, filter, judge } = interfaces({ Polite, helper: () => {} });
  assert.deepEqual(meta.describe(), {
    name: 'polite',
    version: '1.2.3',
    summary: 'For tests.',
    configSchema: '',
    needs: ['perplexity(good)'],
  });
  const early = thrown(() => filter.filter(testing.context(), [turn('p-1')]));
  assert.deepEqual(early, { tag: 'internal', val: 'record `p-1`: called before `configure`' });
  assert.equal(thrown(() => meta.configure('{"x": 1}')).tag, 'config');
  meta.configure('{}');
  const missing = thrown(() => judge.judge(testing.context(), [turn('p-1')]));
  assert.match(missing.val, /Polite has no method `judge`; see `aligner\.kinds`/u);
  assert.throws(() => interfaces({ Polite, Nothing }), /it has Polite, Nothing/u);
});

test('each turn gets its own reply in order', () => {
  const { filter, difficulty } = configured();
  const batch = [turn('p-1', 'fine'), turn('p-2'), turn('p-3', 'bad')];
  const decoding = {
    temperature: null, topP: null, topK: null, repetitionPenalty: null, maxNewTokens: null, stop: null,
  };
  const asked = { tag: 'generate', val: { model: 'policy', prompt: sdk.user('Hello?'), decoding, seed: 0 } };
  assert.deepEqual(filter.filter(testing.context(), batch), [
    { tag: 'done', val: sdk.keep },
    { tag: 'ask', val: [asked] },
    { tag: 'done', val: sdk.drop('impolite') },
  ]);
  const [a, b] = difficulty.score(testing.context(), [turn('p-1'), turn('p-2')]);
  assert.deepEqual(a, b);
});

test('errors name the record, and faults their line', () => {
  const { filter } = configured();
  const check = (of, tag, expected) => {
    const error = thrown(() => filter.filter(testing.context(), [of]));
    assert.equal(error.tag, tag);
    assert.match(error.val, expected);
  };
  check(turn('broken'), 'input', /^record `broken`: no completion$/u);
  check(turn('p-2', '?'), 'input', /^record `p-2`: the model gave no answer: too long$/u);
  check(turn('crash'), 'internal', /^record `crash`: TypeError: .* \(sdk\.test\.js, line \d+\)$/u);
  check(turn('nothing'), 'internal', /a verdict must be an object, not undefined/u);
  check(turn('later'), 'internal', /a verdict is a promise; a plugin awaits nothing/u);
  check(turn('half'), 'internal', /half of a surrogate pair/u);
});

test('random numbers are those of the other SDKs', () => {
  const rng = new sdk.Rng(17);
  assert.deepEqual([rng.bits(), rng.bits()], [0x808475f02ee37363n, 0x6434ff62b4e8edd1n]);
  const chosen = new sdk.Rng(3).choose(9, 4);
  assert.deepEqual(chosen.toSorted(), [0, 1, 2, 3]);
  assert.equal(new sdk.Rng(1).below(0), 0);
});

test('a seed has all its 64 bits, in halves as a component gets it', () => {
  const seen = [];
  class Seeing extends sdk.Plugin {
    static about = { name: 'seeing', version: '0.1.0', summary: 'For tests.' };
    select(context, pool, seed) {
      seen.push(seed);
      return [];
    }
    equip(context, slot) {
      seen.push(slot.seed);
      return {};
    }
    write(context, pool, index, ask) {
      seen.push(ask.seed);
      return [];
    }
  }
  const { meta, sampler, promptWriter } = interfaces({ Seeing });
  meta.configure('{}');
  // The halves come with a sign.
  const halves = [0xfedcba99 | 0, 0xf1234567 | 0];
  sampler.select(testing.context(), [], halves);
  sampler.equip(testing.context(), [{ id: 'p-1', tags: [], seed: halves }], []);
  promptWriter.write(testing.context(), [], [{ index: 0, seed: halves, answers: [] }]);
  assert.deepEqual(seen, [0xf1234567fedcba99n, 0xf1234567fedcba99n, 0xf1234567fedcba99n]);
  // As in the other SDKs.
  const rng = new sdk.Rng(seen[0]);
  assert.deepEqual([rng.bits(), rng.below(1000)], [0xe55470e76bfb22e9n, 764]);
});

test('a request has a seed that a number holds', () => {
  const asked = (seed) => sdk.Ask.converse(1, [], (ask) => ask.generate('policy', sdk.user('a'), {}, seed)).ask[0];
  assert.equal(out.request(asked(7n)).val.seed, 7);
  assert.throws(() => out.request(asked(2n ** 53n)), /the seed must be a whole number from 0 to 9007199254740991/u);
});

test('a task parts at its first blank line, and comes back as it was put together', () => {
  const check = (text, ...expected) => assert.deepEqual(sdk.instructionAndInput(sdk.user(text)), expected);
  check('Why?', 'Why?', '');
  check('Sum up.\n\nOne.\n\nTwo.', 'Sum up.', 'One.\n\nTwo.');
  check('\n\nWhy?\n\n', 'Why?', '');
  check('', '', '');
  assert.deepEqual(sdk.instructionAndInput(sdk.task('Sum up.', 'One.\n\nTwo.')), ['Sum up.', 'One.\n\nTwo.']);
  assert.deepEqual(sdk.task(' Why? ', ' \n'), sdk.user('Why?'));
});

test('instructions join the system message', () => {
  const history = testing.awkward().pop().prompt.text;
  assert.equal(sdk.under('Be good.', history).val[0].content, 'You are terse.\n\nBe good.');
  assert.equal(sdk.under('Be good.', sdk.user('Why?')).val.length, 2);
  assert.throws(() => sdk.under('Be good.', sdk.raw('Why?')), { name: 'InputError' });
  assert.match(sdk.transcript(history), /^System: You are terse\.\n\nUser: What/u);
});

test('awkward texts are the same as in the other SDKs, and well formed', () => {
  assert.equal(testing.awkward().length, 20);
  assert.ok(testing.awkwardTexts().every((text) => text.isWellFormed()));
});
