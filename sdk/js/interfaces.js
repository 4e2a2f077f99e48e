/** Between the contract's functions, which take batches, and the plugin's methods, which take one record. */
import { Ask } from './ask.js';
import { schema } from './config.js';
import { ConfigError, InputError, InternalError, PluginError, UnansweredError } from './errors.js';
import * as out from './outgoing.js';
import { Plugin, configured } from './plugin.js';

/** Returns the contract's interfaces, as far as the one plugin of a module has their methods. */
export function interfaces(authored) {
  const kind = find(authored);
  const has = (...methods) => methods.every((name) => typeof kind.prototype[name] === 'function');
  let made;
  const plugin = () => {
    if (made) return made;
    throw new InternalError('called before `configure`');
  };

  const each = (lay, work) => (context, batch) =>
    batch.map((turn) =>
      guarded(named(turn.record.prompt.id), () =>
        one(turn, lay, (ask) => work(plugin(), context, turn.record, ask)),
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

  const filter = has('filter') && {
    filter: each(out.verdict, (it, context, record, ask) => it.filter(context, record, ask)),
  };

  const setFilter = has('observe', 'decide') && {
    observe(context, batch) {
      for (const record of batch) {
        guarded(named(record.prompt.id), () => plugin().observe(context, record));
      }
    },
    decide: (context, batch) =>
      batch.map((record) =>
        guarded(named(record.prompt.id), () => out.verdict(plugin().decide(context, record))),
      ),
  };

  const judge = has('judge') && {
    judge: each(out.opinion, (it, context, record, ask) => it.judge(context, record, ask)),
  };

  const difficulty = has('score') && {
    score: each(
      (it) => out.number('the difficulty', it),
      (it, context, record, ask) => it.score(context, record, ask),
    ),
  };

  const principle = has('render') && {
    catalogue: () => guarded('the catalogue', () => out.exemplars(plugin().catalogue?.() ?? [])),
    render: each(out.variants, (it, context, record, ask) => it.render(context, record, ask)),
  };

  const sampler = has('select') && {
    select: (context, pool, seed) =>
      guarded('the pool', () => out.texts('what is selected', plugin().select(context, pool, seed))),
    equip: (context, batch, catalogue) =>
      batch.map((slot) =>
        guarded(named(slot.id), () => out.equipment(plugin().equip?.(context, slot, catalogue) ?? {})),
      ),
  };

  const promptWriter = has('write') && {
    write: (context, pool, batch) =>
      batch.map((slot) =>
        guarded(`slot ${slot.index}`, () =>
          one(slot, out.prompts, (ask) => plugin().write(context, pool, slot.index, ask)),
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
  const outcome = Ask.converse(seed, answers, work);
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

/** Returns the line of the author's own code that an error came from. */
function line(error) {
  const lines = String(error?.stack ?? '').split('\n');
  const at = lines.find((it) => /\.js:\d+/u.test(it) && !it.includes('aligner-sdk/'));
  const found = at?.match(/([\w.-]+\.js):(\d+)/u);
  return found ? ` (${found[1]}, line ${found[2]})` : '';
}
