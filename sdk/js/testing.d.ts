import type {
  Answer, Ask, Completion, Context, Difficulty, Exemplar, Filter, Judge, Opinion, Plugin, Principle, Prompt,
  PromptWriter, Record, Request, Role, SetFilter, Variant, Verdict,
} from './index.js';

type Model = (request: Request) => Answer;

export function plugin<P extends Plugin>(kind: new (config: any) => P, configuration?: object): P;
export function context(round?: number, rounds?: number): Context;
export function record(id: string, prompt: string): Record;
export function answered(id: string, prompt: string, text: string): Record;
export function variant(name: string, role: Role, prompt: string, text: string): Variant;
export function completion(text: string): Completion;
export function exemplar(id: string, text: string): Exemplar;
export function awkward(): Record[];
export function awkwardTexts(): string[];
export function noModel(request: Request): never;
export function run<T>(seed: number | bigint, answer: Model, call: (ask: Ask) => T): T;
export function filter(plugin: Filter, record: Record, answer?: Model): Verdict;
export function decide(plugin: SetFilter, standing: Record[], records: Record[]): Verdict[];
export function judge(plugin: Judge, record: Record, answer?: Model): Opinion;
export function score(plugin: Difficulty, record: Record, answer?: Model): number;
export function render(plugin: Principle, record: Record, answer?: Model): Variant[];
export function write(plugin: PromptWriter, pool: Prompt[], answer?: Model): Prompt[];
