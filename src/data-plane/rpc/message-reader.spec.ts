// SPDX-License-Identifier: Apache-2.0

import type { Socket } from 'node:net';
import { PassThrough } from 'node:stream';

import { describe, expect, it } from 'vitest';

import { BoundedMessageReader } from './message-reader.js';

function frame(text: string): Buffer {
  return Buffer.from(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
}

/** What the reader made of the chunks: messages, and the first fault. */
async function read(chunks: (Buffer | string)[]) {
  const stream = new PassThrough();
  const reader = new BoundedMessageReader(stream as unknown as Socket, 4096);
  const messages: unknown[] = [];
  const faults: string[] = [];
  reader.onError((error) => faults.push(error.message));
  reader.listen((message) => messages.push(message));
  for (const chunk of chunks) {
    stream.write(chunk);
    await new Promise((resolve) => setImmediate(resolve));
  }
  return { messages, faults };
}

const call = (id: number) => ({ jsonrpc: '2.0', id, method: 'info', params: { text: 'ä€😀' } });

describe('BoundedMessageReader', () => {
  it('reads messages however they are cut', async () => {
    const all = Buffer.concat([1, 2, 3].map((id) => frame(JSON.stringify(call(id)))));
    const whole = await read([all]);
    expect(whole).toEqual({ messages: [call(1), call(2), call(3)], faults: [] });
    const bytes = Array.from(all, (_, at) => all.subarray(at, at + 1));
    expect(await read(bytes)).toEqual(whole);
    for (let cut = 1; cut < all.length; cut += 7) {
      expect(await read([all.subarray(0, cut), all.subarray(cut)])).toEqual(whole);
    }
  });

  it.each([
    ['no length', 'X: 1\r\n\r\n{}'],
    ['a negative length', 'Content-Length: -5\r\n\r\n{}'],
    ['a length beyond the bound', 'Content-Length: 4097\r\n\r\n'],
    ['a length of ten digits', 'Content-Length: 9999999999\r\n\r\n'],
    ['an endless header', 'a'.repeat(2000)],
    ['no JSON', frame('{nonsense')],
    ['null', frame('null')],
    ['an array', frame('[1,2]')],
    ['no version', frame('{"id":1,"method":"info"}')],
    ['neither call nor answer', frame('{"jsonrpc":"2.0","id":1}')],
    ['params that are no object', frame('{"jsonrpc":"2.0","id":1,"method":"a","params":7}')],
    ['an id that is an object', frame('{"jsonrpc":"2.0","id":{},"method":"a"}')],
    ['a method that is no text', frame('{"jsonrpc":"2.0","id":1,"method":{}}')],
  ])('reports %s once and reads nothing after it', async (_, bytes) => {
    const good = frame(JSON.stringify(call(1)));
    const { messages, faults } = await read([good, bytes, good]);
    expect(messages).toEqual([call(1)]);
    expect(faults).toHaveLength(1);
  });
});
