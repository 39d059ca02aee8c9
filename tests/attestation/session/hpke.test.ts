import test from 'ava'
import { hex } from '../../../attestation/bytes.ts'
import { Rejection } from '../../../attestation/errors.ts'
import type { HpkeContext } from '../../../attestation/session/hpke.ts'
import { keySchedule, setupReceiver, setupSender } from '../../../attestation/session/hpke.ts'
import { vectorTest } from '../../support/vectors.ts'
import { makers, unhex, vectors } from './support.ts'

type Vector = {
  id: string
  kem_id: number
  kdf_id: number
  aead_id: number
  info: string
  skRm: string
  enc: string
  shared_secret: string
  encryptions: { seq: number; pt: string; aad: string; ct: string }[]
  exports: { exporter_context: string; L: number; exported_value: string }[]
}
const X25519 = 0x20
const XWING = 0x647a

for (const [maker, p] of makers) {
  /** Brings a context to a message of the vector, by sealing what lies before. */
  const checkAll = async (
    t: { is(a: unknown, b: unknown, message?: string): unknown; deepEqual(a: unknown, b: unknown): unknown },
    it: Vector,
    contexts: () => Promise<[HpkeContext, HpkeContext]>,
  ) => {
    const [sender, receiver] = await contexts()
    let sequence = 0
    for (const message of it.encryptions) {
      for (; sequence < message.seq; sequence++) {
        await receiver.open(new Uint8Array(), await sender.seal(new Uint8Array(), new Uint8Array()))
      }
      const sealed = await sender.seal(unhex(message.aad), unhex(message.pt))
      t.is(hex(sealed), message.ct, `${it.id}, message ${message.seq}`)
      t.is(hex(await receiver.open(unhex(message.aad), sealed)), message.pt)
      sequence++
    }
    for (const wanted of it.exports) {
      t.is(hex(receiver.export(unhex(wanted.exporter_context), wanted.L)), wanted.exported_value)
    }
  }

  vectorTest(
    `HPKE: key schedule, messages and exports of RFC 9180's vectors, ${maker}`,
    async t => {
      for (const it of vectors<Vector[]>('hpke', 'base-x25519-hkdfsha256-aes256gcm.json')) {
        const context = () => keySchedule(p, X25519, unhex(it.shared_secret), unhex(it.info))
        await checkAll(t, it, async () => [context(), context()])
      }
    },
    ['crypto-vectors'],
  )

  vectorTest(
    `HPKE: X-Wing, from the encapsulation on, ${maker}`,
    async t => {
      for (const it of vectors<Vector[]>('hpke', 'pq-xwing-hkdfsha256-aes256gcm.json')) {
        const receiver = async () => {
          const { secret } = await p.kemKeyPair(unhex(it.skRm))
          return setupReceiver(p, secret, unhex(it.enc), unhex(it.info))
        }
        await checkAll(t, it, async () => [await receiver(), await receiver()])
      }
    },
    ['crypto-vectors'],
  )

  vectorTest(
    `HPKE: the shared secret of the working group's X-Wing vectors, ${maker}`,
    async t => {
      const offered = vectors<Vector[]>('hpke', 'pq-xwing-published.json').filter(it => it.kem_id === XWING)
      t.true(offered.length > 0)
      for (const it of offered) {
        const { secret } = await p.kemKeyPair(unhex(it.skRm))
        t.is(hex((await p.kemDecapsulate(secret, unhex(it.enc))) as Uint8Array), it.shared_secret)
      }
    },
    ['crypto-vectors'],
  )

  type Refusal = Vector & { aad: string; ct: string; seq: number; why: string }
  vectorTest(
    `HPKE: every changed message, key, info, sequence and encapsulation is refused, ${maker}`,
    async t => {
      const cases = vectors<Refusal[]>('hpke', 'refuse.json').filter(it => it.kem_id === XWING && it.aead_id === 2)
      t.true(cases.length > 3)
      for (const it of cases) {
        const open = async () => {
          const { secret } = await p.kemKeyPair(unhex(it.skRm))
          const context = await setupReceiver(p, secret, unhex(it.enc), unhex(it.info))
          return context.open(unhex(it.aad), unhex(it.ct))
        }
        await t.throwsAsync(open, { instanceOf: Rejection }, `${it.id}: ${it.why}`)
      }
    },
    ['crypto-vectors'],
  )

  for (const [other, q] of makers) {
    test(`HPKE: ${maker} to ${other}`, async t => {
      const { publicKey, secret } = await q.kemKeyPair(q.random(32))
      const info = p.random(20)
      const { enc, context } = await setupSender(p, publicKey, info)
      const receiver = await setupReceiver(q, secret, enc, info)
      for (const plaintext of [new Uint8Array(), p.random(1), p.random(5000)]) {
        const aad = p.random(9)
        t.deepEqual(await receiver.open(aad, await context.seal(aad, plaintext)), plaintext)
      }
      t.deepEqual(receiver.export(info, 64).slice(), context.export(info, 64).slice())
      await t.throwsAsync(receiver.open(info, await context.seal(new Uint8Array(), new Uint8Array())))
      await t.throwsAsync(setupSender(p, publicKey.subarray(1), info), { instanceOf: Rejection })
    })
  }
}
