// The types of the contract, which `wit/` documents in full, and of what `index.js` exports.

export type Message = { speaker: 'system' | 'user' | 'assistant'; content: string };
/** A prompt as a model reads it: tokenised as it stands, or rendered with the model's chat template. */
export type Text = { tag: 'raw'; val: string } | { tag: 'chat'; val: Message[] };
export type Prompt = { id: string; text: Text; tags: string[] };
export type Exemplar = { id: string; tags: string[]; text: string };
export type Role = 'plain' | 'good' | 'bad';
/** `stop`: the text is whole; `length`: its token limit cut it. */
export type Finish = 'stop' | 'length';
/** `logprob` is a sum over tokens, in nats, never positive. */
export type Completion = { text: string; tokens: number; logprob: number; finish: Finish };
export type Variant = { name: string; role: Role; prompt: Text; completion: Completion | null };
export type Reward = { variant: string; name: string; value: number };
export type Pair = { chosen: string; rejected: string };
export type Measurement = { name: string; value: number };

/** The record that travels through a round. Stages add to it. */
export type Record = {
  prompt: Prompt;
  exemplars: Exemplar[];
  variants: Variant[];
  rewards: Reward[];
  pair: Pair | null;
  difficulty: number | null;
  measurements: Measurement[];
};

/** How to decode. What is absent is taken from `[generate]` of the plugin set. */
export type Decoding = {
  temperature?: number | null;
  topP?: number | null;
  topK?: number | null;
  repetitionPenalty?: number | null;
  maxNewTokens?: number | null;
  stop?: string[] | null;
};

export type GenerateRequest = { model: string; prompt: Text; decoding?: Decoding; seed?: number | bigint };
export type ScoreRequest = { model: string; prompt: Text; completion: string };
export type RewardRequest = { model: string; prompt: Text; completion: string };
export type Request =
  | { tag: 'generate'; val: GenerateRequest }
  | { tag: 'score'; val: ScoreRequest }
  | { tag: 'reward'; val: RewardRequest };
export type Score = { logprob: number; tokens: number };
export type Answer =
  | { tag: 'completion'; val: Completion }
  | { tag: 'score'; val: Score }
  | { tag: 'reward'; val: number }
  | { tag: 'unanswered'; val: string };

/** Where in the run a call happens: the round, from 1, and how many there are. */
export type Context = { round: number; rounds: number };
export type Revision = { variant: string; text: string; finish?: Finish };
export type Verdict = { tag: 'keep' } | { tag: 'drop'; val: string } | { tag: 'revise'; val: Revision[] };
export type Opinion =
  | { tag: 'rewards'; val: Reward[] }
  | { tag: 'preference'; val: Pair }
  | { tag: 'tie' }
  | { tag: 'unparsable'; val: string };
export type Candidate = { id: string; tags: string[]; difficulty: number | null; selected: number };
export type Card = { id: string; tags: string[] };
/** `seed` has 64 bits, more than a number holds; `new Rng(seed)` takes it. */
export type Slot = { id: string; tags: string[]; seed: bigint };
export type Equipment = { exemplars?: string[]; decoding?: Decoding };

export type About = {
  /** Lower-case words joined by hyphens, for example `self-align-format`. */
  name: string;
  /** A semantic version. */
  version: string;
  /** One line for people. */
  summary: string;
  /** Measurements that the host must make before it calls, such as `perplexity(good)`. */
  needs?: string[];
};

/** A key of the configuration, as in JSON Schema. Without `default` it must be given. */
export type Property = {
  /** `string`, `integer`, `number`, `boolean`, `array` or `object`. */
  type?: string;
  description?: string;
  enum?: (string | number | boolean)[];
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  items?: Property;
  minItems?: number;
  maxItems?: number;
  properties?: { [key: string]: Property };
  default?: unknown;
};

/** What every plugin extends; the methods that it has say what kind it is. */
export class Plugin<Config = any> {
  static about: About;
  static config?: { [key: string]: Property };
  constructor(config: Config);
  config: Config;
}

/** A filter: keeps, drops or revises one record at a time. */
export interface Filter {
  filter(context: Context, record: Record, ask: Ask): Verdict;
}

/**
 * A filter that must have seen the whole stage. `observe` is called for every record in order, before the
 * first `decide`; one instance lives through the stage.
 */
export interface SetFilter {
  observe(context: Context, record: Record): void;
  decide(context: Context, record: Record): Verdict;
}

/** A judge: says how good completions are, or which of two is better. */
export interface Judge {
  judge(context: Context, record: Record, ask: Ask): Opinion;
}

/** Says how hard a prompt is for the model: higher is harder; finite. */
export interface Difficulty {
  score(context: Context, record: Record, ask: Ask): number;
}

/** Puts a prompt into its variants: at least one, names unique. */
export interface Principle {
  catalogue?(): { id: string; tags?: string[]; text: string }[];
  render(context: Context, record: Record, ask: Ask): { name: string; role: Role; prompt: Text }[];
}

/** Selects the prompts of a round by id, none twice, and equips each. */
export interface Sampler {
  select(context: Context, pool: Candidate[], seed: bigint): string[];
  equip?(context: Context, slot: Slot, catalogue: Card[]): Equipment;
}

/** A sampler that lets the model write new prompts, by convention tagged `round:N`. */
export interface PromptWriter extends Sampler {
  write(context: Context, pool: Prompt[], index: number, ask: Ask): { text: Text; tags?: string[] }[];
}

/** A record's conversation with the models, replayed from the answers it has had so far. */
export class Ask {
  readonly seed: bigint;
  rng(): Rng;
  generate(model: string, prompt: Text, decoding?: Decoding, seed?: number | bigint): Completion;
  score(model: string, prompt: Text, completion: string): Score;
  reward(model: string, prompt: Text, completion: string): number;
  all(requests: Iterable<Request>): Answer[];
}

/** A generator of random numbers, equal on every machine: SplitMix64. */
export class Rng {
  constructor(seed: number | bigint);
  bits(): bigint;
  uniform(): number;
  below(n: number): number;
  shuffle(items: unknown[]): void;
  choose(k: number, n: number): number[];
}

export class PluginError extends Error {}
export class ConfigError extends PluginError {}
export class InputError extends PluginError {}
export class InternalError extends PluginError {}
export class UnansweredError extends PluginError {}

export namespace log {
  function debug(message: string): void;
  function info(message: string): void;
  function warn(message: string): void;
  function error(message: string): void;
}

export function variant(record: Record, name: string): Variant | undefined;
export function completions(record: Record): [Variant, Completion][];
export function measurement(record: Record, name: string): number | undefined;
export function reward(record: Record, variant: string, name: string): number | undefined;
export function perplexity(score: Score): number;
export function raw(text: string): Text;
export function chat(messages: Message[]): Text;
export function user(content: string): Text;
export function task(instruction: string, input?: string): Text;
export function gist(text: Text): string;
export function transcript(text: Text): string;
export function instructionAndInput(text: Text): [string, string];
export function under(instructions: string, text: Text): Text;
export const keep: Verdict;
export function drop(reason: string): Verdict;
export function revise(revisions: Revision[]): Verdict;
export function rewards(list: Reward[]): Opinion;
export function preference(chosen: string, rejected: string): Opinion;
export const tie: Opinion;
export function unparsable(text: string): Opinion;
