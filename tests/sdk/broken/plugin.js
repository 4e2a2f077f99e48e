import { Plugin } from './aligner-sdk/index.js';

const { random } = Math;

/** Does what a plugin cannot do. For tests. */
export class Broken extends Plugin {
  static about = { name: 'broken', version: '0.1.0', summary: 'Does what a plugin cannot do. For tests.' };
  static config = { what: { type: 'string', default: '' } };

  constructor(config) {
    super(config);
    switch (config.what) {
      case 'fault':
        config.x.y;
        break;
      case 'clock':
        Date.now();
        break;
      case 'date':
        new Date();
        break;
      case 'performance':
        performance.now();
        break;
      case 'timer':
        setTimeout(() => {}, 1);
        break;
      case 'chance':
        Math.random();
        break;
      case 'dice':
        random();
        break;
      case 'entropy':
        crypto.getRandomValues(new Uint8Array(4));
        break;
      case 'fetch':
        fetch('https://example.org');
        break;
      case 'file':
        require('node:fs');
        break;
      case 'deep':
        new Broken(config);
        break;
      case 'print':
        console.log('\ud800');
        break;
      default:
        new Date(0).toISOString();
    }
  }

  filter() {}
}
