/** Rows 27 to 30: whoever has the disk puts something older, or something else, in the place of what the pod wrote. */
import { rmSync } from 'node:fs'
import { encode } from '../../../attestation/wire.ts'
import { decodeItem } from '../../../attestation/items.ts'
import { items } from '../../../client/data/items.ts'
import { lock, releaseKeys } from '../../../client/session/release.ts'
import { connect, type Session } from '../../../client/session/session.ts'
import { fromBytea } from '../../../runtime/store/database.ts'
import { RealPod, realOptions } from '../../support/real-pod.ts'
import { type Person, type World, world } from '../../support/world.ts'
import { type Attack, codeOf, each, type Outcome, refusedFor } from '../outcome.ts'

async function withPod(use: (pod: RealPod, world: World) => Promise<Outcome>): Promise<Outcome> {
  const here = await world()
  const pod = await RealPod.start(here, here.owner)
  try {
    return await use(pod, here)
  } finally {
    await pod.stop()
  }
}

async function unlocked(pod: RealPod, owner: Person): Promise<Session<Person>> {
  const session = await connect(pod.url, owner, realOptions)
  await releaseKeys(session)
  return session
}
const note = (text: string) => ({ type: 'note', data: { text } })
/** Durable in the pod, and its head kept by the device. */
async function write(session: Session, text: string): Promise<void> {
  await items(session, 'notes').create(note(text))
  await session.heads.settled()
}
const textOf = (data: unknown) => (data as { text: string }).text

/** Locks; resolves when the disk is closed. */
async function lockAndWait(pod: RealPod, session: Session, times: number): Promise<void> {
  await lock(session)
  await pod.locked(times)
  session.close()
}
const logSize = (pod: RealPod): Promise<number> =>
  pod.database(async database => Number((await database.rows('SELECT size FROM pod.head'))[0]?.[0]))

/** 27: the disk is set back while the pod is off. */
export const diskRollback: Attack = () =>
  withPod(async (pod, { owner }) => {
    const first = await unlocked(pod, owner)
    await write(first, 'one')
    await lockAndWait(pod, first, 1)
    const old = pod.snapshot()
    const second = await unlocked(pod, owner)
    await write(second, 'two')
    await lockAndWait(pod, second, 2)
    pod.restore(old)
    rmSync(old, { recursive: true })

    const session = await connect(pod.url, owner, realOptions)
    const alarm = await codeOf(() => releaseKeys(session))
    const before = await logSize(pod)
    const refusal = await codeOf(() => write(session, 'three'))
    if ((await logSize(pod)) > before) return 'succeeds'
    if (refusal === 'suspect' && alarm === 'rollback') return 'refused'
    throw new Error(`the write was refused for ${refusal}, the owner was told ${alarm}`)
  })

type Row = Readonly<{ version: string; epoch: string; ord: string; sealed: Uint8Array }>

const hexUuid = (id: string) => id.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
const readRow = (pod: RealPod, id: string): Promise<Row> =>
  pod.database(async database => {
    const query = 'SELECT version, epoch, ord, sealed FROM pod.items WHERE id = $1'
    const [row] = await database.rows(query, [hexUuid(id)])
    const [version, epoch, ord, sealed] = row as readonly [string, string, string, string]
    return { version, epoch, ord, sealed: fromBytea(sealed) }
  })
const readBuckets = (pod: RealPod) =>
  pod.database(database => database.rows('SELECT index, sealed, hash FROM pod.buckets'))

/** 28: an old row, an old row with its bucket, or a deleted row comes back under the running pod. */
export const rowReplay: Attack = () =>
  withPod(async (pod, { owner }) => {
    const session = await unlocked(pod, owner)
    const notes = items(session, 'notes')
    const replayed = (with_: 'row' | 'row and bucket' | 'deleted row') =>
      refusedFor('tampered', async () => {
        const { id } = await notes.create(note('old'))
        const row = await readRow(pod, id)
        const buckets = await readBuckets(pod)
        if (with_ === 'deleted row') await notes.delete(id, 1)
        else await notes.update(id, 1, note('new'))
        await pod.database(async database => {
          const { version, epoch, ord, sealed } = row
          const coll = Buffer.from(owner.collection('notes')).toString('hex')
          const upsert = `INSERT INTO pod.items (coll, id, version, epoch, ord, sealed) VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (coll, id) DO UPDATE SET version = $3, epoch = $4, sealed = $6`
          await database.rows(upsert, [hexUuid(coll), hexUuid(id), version, epoch, ord, sealed])
          if (with_ !== 'row and bucket') return
          for (const [index, bucket, hash] of buckets) {
            const set = 'UPDATE pod.buckets SET sealed = $2, hash = $3 WHERE index = $1'
            await database.rows(set, [index as string, fromBytea(bucket as string), fromBytea(hash as string)])
          }
        })
        return textOf((await notes.get(id)).data) === 'old'
      })
    const outcomes = [await replayed('row'), await replayed('deleted row'), await replayed('row and bucket')]
    return each(outcomes.map(outcome => Promise.resolve(outcome)))
  })

/** 29: the row of one item is written under the id of another, with its head rewritten to say so. */
export const rowSwap: Attack = () =>
  withPod(async (pod, { owner }) => {
    const session = await unlocked(pod, owner)
    const notes = items(session, 'notes')
    const [a, b] = [await notes.create(note('pay Alice')), await notes.create(note('pay Bob'))]
    const { sealed } = await readRow(pod, a.id)
    const { kid, coll, version, type, schema, salt, nonce, ct } = decodeItem(sealed)
    const id = Uint8Array.from(Buffer.from(b.id, 'hex'))
    const renamed = encode([1, kid, coll, id, version, type, schema, salt, nonce, ct])
    await pod.database(database =>
      database.rows('UPDATE pod.items SET sealed = $2 WHERE id = $1', [hexUuid(b.id), renamed]),
    )
    return refusedFor('tampered', async () => textOf((await notes.get(b.id)).data) === 'pay Alice')
  })

/** 30: the pod is cloned; two devices open a machine each, and then one of them meets the other's. */
export const twoMachines: Attack = () =>
  withPod(async (pod, here) => {
    const { owner } = here
    const session = await unlocked(pod, owner)
    await write(session, 'common')
    await lockAndWait(pod, session, 1)
    const disk = pod.snapshot()
    const device = owner.secondDevice()
    const clone = await RealPod.start(here, owner, disk)
    try {
      const first = await unlocked(pod, owner)
      await write(first, 'here')
      await write(await unlocked(clone, device), 'there')
      const meets = (how: (device: Person) => Promise<Session>) =>
        refusedFor('fork', async () => {
          await write(await how(device.secondDevice()), 'and here again')
          return true
        })
      const asLong = await meets(who => unlocked(pod, who))
      await write(first, 'here it goes on') // a longer log looks like one that has grown
      const longer = await meets(who => connect(pod.url, who, realOptions))
      return await each([asLong, longer].map(outcome => Promise.resolve(outcome)))
    } finally {
      await clone.stop()
      rmSync(disk, { recursive: true })
    }
  })
