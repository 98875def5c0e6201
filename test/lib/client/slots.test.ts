/** Slots that downloads share: whoever gives up takes nobody else's place. */
import assert from 'node:assert/strict';
import {it} from 'node:test';
import {Slots} from '../../../src/lib/client/pull/slots.ts';

for (let ticks = 0; ticks < 5; ticks++)
  it(`whoever gives up ${ticks} microtasks after a slot became free leaves it to the next`, async () => {
    const slots = new Slots(1);
    const never = new AbortController().signal;
    const stop = new AbortController();
    const first = Promise.withResolvers<void>();
    const ran: string[] = [];
    const holder = slots.run(() => first.promise, never);
    const second = slots.run(async () => void ran.push('second'), stop.signal).catch(() => {});
    const third = slots.run(async () => void ran.push('third'), never);
    first.resolve();
    for (let i = 0; i < ticks; i++) await undefined;
    stop.abort(new Error('enough'));
    await Promise.all([holder, second]);
    const late = new Promise<'late'>((resolve) => setImmediate(resolve, 'late'));
    assert.notEqual(await Promise.race([third, late]), 'late');
    assert.equal(ran.at(-1), 'third');
  });
