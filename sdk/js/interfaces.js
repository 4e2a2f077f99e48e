/** Between the contract's functions, which take batches, and the plugin's methods, which take one record. */
import { Ask } from './ask.js';
import { schema } from './config.js';
import { ConfigError, InputError, InternalError, PluginError, UnansweredError } from './errors.js';
import * as out from './outgoing.js';
import { Plugin, configured } from './plugin.js';

/** Returns the contract's interfaces, carried out by the one plugin of a module. */
export function interfaces(authored) {
  const kind = find(authored);
  let made;
  // Which interfaces the component has says `aligner.kinds` in package.json, not the plugin.
  const plugin = (method) => {
    if (!made) throw new InternalError('called before `configure`');
    if (typeof made[method] === 'function') return made;
    throw new InternalError(`${kind.name} has no method \`${method}\`; see \`aligner.kinds\` in package.json`);
  };

  const each = (method, lay) => (context, batch) =>
    batch.map((turn) =>
      guarded(named(turn.record.prompt.id), () =>
        one(turn, lay, (ask) => plugin(method)[method](context, turn.record, ask)),
      ),
    );

  const meta = {
    describe: () => ({
      name: kind.about.name,
      version: kind.about.version,
      summary: kind.about.summary,
      configSchema: schema(kind.config ?? {}),
      needs: kind.about.needs ?? [],
    }),
    configure(text) {
      made = guarded('', () => configured(kind, text));
    },
  };

  const filter = { filter: each('filter', out.verdict) };

  const setFilter = {
    observe(context, batch) {
      for (const record of batch) {
        guarded(named(record.prompt.id), () => plugin('observe').observe(context, record));
      }
    },
    decide: (context, batch) =>
      batch.map((record) =>
        guarded(named(record.prompt.id), () => out.verdict(plugin('decide').decide(context, record))),
      ),
  };

  const judge = { judge: each('judge', out.opinion) };

  const difficulty = { score: each('score', (it) => out.number('the difficulty', it)) };

  const principle = {
    catalogue: () => guarded('the catalogue', () => out.exemplars(plugin('render').catalogue?.() ?? [])),
    render: each('render', out.variants),
  };

  const sampler = {
    select: (context, pool, seed) =>
      guarded('the pool', () => out.texts('what is selected', plugin('select').select(context, pool, exact(seed)))),
    equip: (context, batch, catalogue) =>
      batch.map((slot) =>
        guarded(named(slot.id), () => out.equipment(plugin('select').equip?.(context, { ...slot, seed: exact(slot.seed) }, catalogue) ?? {})),
      ),
  };

  const promptWriter = {
    write: (context, pool, batch) =>
      batch.map((slot) =>
        guarded(`slot ${slot.index}`, () =>
          one(slot, out.prompts, (ask) => plugin('write').write(context, pool, slot.index, ask)),
        ),
      ),
  };

  return { meta, filter, setFilter, judge, difficulty, principle, sampler, promptWriter };
}

/** Returns the plugin of a module; throws while the component is built otherwise. */
function find(authored) {
  const found = Object.values(authored).filter((it) => it?.prototype instanceof Plugin);
  if (found.length === 1 && found[0].about?.name) return found[0];
  const names = found.map((it) => it.name).join(', ') || 'none';
  throw new Error(`\`plugin.js\` must export one plugin with \`static about\`; it has ${names}`);
}

function one({ seed, answers }, lay, work) {
  const outcome = Ask.converse(exact(seed), answers, work);
  return 'ask' in outcome
    ? { tag: 'ask', val: outcome.ask.map(out.request) }
    : { tag: 'done', val: lay(outcome.done) };
}

const named = (record) => `record \`${record}\``;

/** Turns what is thrown into the contract's error, with the place in front where one is known. */
function guarded(place, work) {
  try {
    return work();
  } catch (error) {
    throw contract(error, place ? `${place}: ` : '');
  }
}

function contract(error, place) {
  const says = (tag, text) => ({ tag, val: text.toWellFormed() });
  if (error instanceof ConfigError) return says('config', error.message);
  if (error instanceof InputError) return says('input', place + error.message);
  if (error instanceof UnansweredError) {
    return says('input', `${place}the model gave no answer: ${error.message}`);
  }
  if (error instanceof PluginError) return says('internal', place + error.message);
  return says('internal', `${place}${error}${line(error)}`);
}

/**
 * Returns a seed as a BigInt. `aligner plugin build` has the component get its 64 bits in two halves, the low one
 * first, since a number holds 53; as 32 bits with a sign each.
 */
function exact(seed) {
  if (!Array.isArray(seed)) return BigInt(seed);
  const [low, high] = seed.map((half) => BigInt.asUintN(32, BigInt(half)));
  return (high << 32n) | low;
}

/** Returns the line of the author's own code that an error came from. */
function line(error) {
  const lines = String(error?.stack ?? '').split('\n');
  const at = lines.find((it) => /\.js:\d+/u.test(it) && !it.includes('aligner-sdk/'));
  const found = at?.match(/([\w.-]+\.js):(\d+)/u);
  return found ? ` (${found[1]}, line ${found[2]})` : '';
}
