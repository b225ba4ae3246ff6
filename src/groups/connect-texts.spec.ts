// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { libvirtXml, qemuArgs } from './connect-texts.js';
import { describeOwner, resolveOwner } from './owner.js';
import { Serial } from './serial.js';

const target = { id: 'ep-1-0', socket: '/run/a,b/<x>.sock', queues: 3, targetDev: 'vda' };

describe('how to connect', () => {
  it('doubles commas for QEMU', () => {
    const args = qemuArgs(target);
    expect(args).toContain('socket,id=ep-1-0,path=/run/a,,b/<x>.sock,reconnect=1');
    expect(args).toContain('vhost-user-blk-pci,chardev=ep-1-0,num-queues=3');
    expect(args[args.indexOf('-object') + 1]).toMatch(/share=on/);
  });

  it('escapes for XML', () => {
    expect(libvirtXml(target)).toContain('path="/run/a,b/&lt;x&gt;.sock"');
  });
});

describe('owners', () => {
  it('are found by name and by number', async () => {
    expect(await resolveOwner('root:root')).toEqual({ uid: 0, gid: 0 });
    expect(await resolveOwner('0:0')).toEqual({ uid: 0, gid: 0 });
    expect(await resolveOwner('54321:54322')).toEqual({ uid: 54321, gid: 54322 });
    expect(await resolveOwner('no-such-user:root')).toBeUndefined();
    expect(await describeOwner({ uid: 0, gid: 54322 })).toBe('root:54322');
  });
});

describe('Serial', () => {
  it('runs work of one key in order, and goes on after a failure', async () => {
    const serial = new Serial();
    const order: number[] = [];
    const slow = serial.run('a', async () => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      order.push(1);
      throw new Error('first');
    });
    const next = serial.run('a', () => Promise.resolve(order.push(2)));
    const other = serial.run('b', () => Promise.resolve(order.push(3)));
    await expect(slow).rejects.toThrow('first');
    await Promise.all([next, other]);
    expect(order).toEqual([3, 1, 2]);
  });
});
