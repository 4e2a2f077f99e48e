import { ConfigError } from './errors.js';

const TYPES = ['string', 'integer', 'number', 'boolean', 'array', 'object'];

/**
 * Reads a configuration: a JSON object. Refuses keys that `properties` does not have, and says at which key
 * a value is wrong. Knows `type`, `enum`, `minimum`, `maximum`, `exclusiveMinimum`, `items`, `minItems`,
 * `maxItems`, `properties` and `default` of JSON Schema.
 */
export function parse(properties, text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch (error) {
    throw new ConfigError(`the configuration is not JSON: ${error.message}`);
  }
  if (kindOf(found) !== 'object') throw new ConfigError('the configuration is not a JSON object');
  return object(properties, found, '');
}

/** Returns the JSON Schema of a configuration, or an empty text where there is nothing to configure. */
export function schema(properties) {
  return Object.keys(properties).length ? JSON.stringify(objectSchema({ properties })) : '';
}

function object(properties, found, at) {
  const known = Object.keys(properties);
  for (const key of Object.keys(found)) {
    if (known.includes(key)) continue;
    const expected = known.length ? `expected ${anyOf(known)}` : 'this plugin has no configuration';
    throw new ConfigError(`unknown key \`${at}${key}\`${known.length ? ', ' : '; '}${expected}`);
  }
  const given = {};
  for (const key of known) {
    const property = properties[key];
    if (Object.hasOwn(found, key)) given[key] = value(property, found[key], at + key);
    else if (Object.hasOwn(property, 'default')) given[key] = structured(property.default);
    else throw new ConfigError(`missing key \`${at}${key}\`, expected ${named(property)}`);
  }
  return given;
}

function value(property, found, key) {
  const refuse = (expected) => {
    const shown = JSON.stringify(found);
    const cut = shown.length <= 60 ? shown : `${shown.slice(0, 60).toWellFormed()}…`;
    throw new ConfigError(`key \`${key}\`: expected ${expected}, found ${cut}`);
  };
  if (found === null && property.default === null) return null;
  if (property.enum) return property.enum.includes(found) ? found : refuse(anyOf(property.enum));
  const kind = kindOf(found);
  const fits = property.type === 'number' && kind === 'integer' ? true : kind === property.type;
  if (property.type && !fits) refuse(named(property));
  if (found < property.minimum) refuse(`at least ${property.minimum}`);
  if (found <= property.exclusiveMinimum) refuse(`more than ${property.exclusiveMinimum}`);
  if (found > property.maximum) refuse(`at most ${property.maximum}`);
  if (kind === 'array') {
    const { items = {}, minItems = 0, maxItems = Infinity } = property;
    if (found.length < minItems) refuse(`at least ${minItems} entries`);
    if (found.length > maxItems) refuse(`at most ${maxItems} entries`);
    return found.map((it, i) => value(items, it, `${key}[${i}]`));
  }
  return kind === 'object' && property.properties ? object(property.properties, found, `${key}.`) : found;
}

function kindOf(value) {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  return Number.isInteger(value) ? 'integer' : typeof value;
}

function named({ type, enum: choices }) {
  if (choices) return anyOf(choices);
  const words = { boolean: 'true or false', integer: 'a whole number', string: 'a text', array: 'a list' };
  return words[type] ?? (type === 'number' ? 'a number' : 'a table');
}

function anyOf(words) {
  const quoted = words.map((word) => `\`${word}\``);
  return quoted.length === 1 ? quoted[0] : `one of ${quoted.join(', ')}`;
}

function objectSchema({ properties, ...rest }) {
  for (const [key, { type, enum: choices }] of Object.entries(properties)) {
    if (!choices && !TYPES.includes(type)) throw new Error(`\`config.${key}\` has no type of JSON Schema: ${type}`);
  }
  const required = Object.keys(properties).filter((key) => !Object.hasOwn(properties[key], 'default'));
  const nested = Object.entries(properties).map(([key, it]) => [
    key,
    it.properties ? objectSchema(it) : it.default === null ? { ...it, default: undefined } : it,
  ]);
  return {
    ...rest,
    type: 'object',
    additionalProperties: false,
    properties: Object.fromEntries(nested),
    ...(required.length ? { required } : {}),
  };
}

/** Returns a default that a plugin may change without changing the next one's. */
function structured(value) {
  return value !== null && typeof value === 'object' ? JSON.parse(JSON.stringify(value)) : value;
}
