/** Rows 34 and 36: somebody with a session keeps keys longer, or reaches more of them, than the owner gave him. */
import { type Code, Rejection } from '../../../attestation/errors.ts'
import type { ApiRequest, KeyholderAnswer } from '../../../runtime/keyholder/keyholder.ts'
import { TEST_NOW } from '../../support/vendor.ts'
import { filled, type Person, type TestPod, type TestTime, world } from '../../support/world.ts'
import { unlock } from '../impostor.ts'
import { type Intrusion, intrude } from '../intruder.ts'
import { type Attack, codeOf, each, type Outcome, refusedFor } from '../outcome.ts'

const MINUTE = 60
const HOUR = 3600

/** As the api, which asks on behalf of a session. */
async function ask(pod: TestPod, request: ApiRequest): Promise<KeyholderAnswer> {
  const answer = await pod.keyholder.answer(request)
  if (answer.kind === 'refused') throw new Rejection('data', answer.code as Code, 'refused by the keyholder')
  return answer
}
const read = (pod: TestPod, { sid }: Intrusion, coll: Uint8Array) =>
  ask(pod, { kind: 'lookUp', sid, items: [{ coll, id: filled(16, 1) }], buckets: [...pod.store.sealed()] })
const seal = (pod: TestPod, { sid }: Intrusion, coll: Uint8Array) =>
  ask(pod, { kind: 'sealKeys', sid, rows: [{ coll, id: filled(16, 1), version: 1 }] })

async function opened() {
  const here = await world()
  const pod = here.pod()
  await unlock(here.owner, here.time, pod.fetch)
  const grantee = await here.owner.grantee([
    { collection: here.owner.collection('notes'), verbs: ['read'], filter: null },
  ])
  const asGrantee = (time: number | null = null) =>
    intrude(pod, { credential: grantee.credential, sign: grantee.sign, time })
  return { ...here, pod, notes: here.owner.collection('notes'), diary: here.owner.collection('diary'), asGrantee }
}

/** 34: a lease is kept from idling out, or its clock is set back. */
export const stretchedLease: Attack = () => each([keptFromIdling(), clockSetBack()])

async function keptFromIdling(): Promise<Outcome> {
  const { pod, time, notes, asGrantee } = await opened()
  const session = await asGrantee()
  return refusedFor('lease', async () => {
    for (let minutes = 0; minutes < 25; minutes += 5) {
      time.seconds += 5 * MINUTE
      await read(pod, session, notes)
    }
    return true
  })
}

async function clockSetBack(): Promise<Outcome> {
  const { owner, pod, time, notes, asGrantee } = await opened()
  await checkOtherClocks(pod, asGrantee)
  const late = async () => {
    const session = await intrude(pod, { sign: owner.sign, time: TEST_NOW })
    await useFor(pod, session, notes, time, HOUR)
  }
  return refusedFor('lease', async () => {
    for (let hours = 0; hours < 9; hours++) await late()
    return true
  })
}

async function useFor(pod: TestPod, session: Intrusion, coll: Uint8Array, time: TestTime, seconds: number) {
  for (let passed = 0; passed < seconds; passed += 10 * MINUTE) {
    time.seconds += 10 * MINUTE
    await read(pod, session, coll)
  }
}

/** The host's wall clock is not read, and a grantee's word for the time does not count. */
async function checkOtherClocks(pod: TestPod, asGrantee: (time: number) => Promise<Intrusion>): Promise<void> {
  const before = pod.keyholder.now()
  const real = Date.now
  for (const day of [86_400_000, -86_400_000]) {
    Date.now = () => real() + day
    if (pod.keyholder.now() !== before) throw new Error('the wall clock counts')
  }
  Date.now = real
  await asGrantee(before + 1800)
  if (pod.keyholder.now() !== before) throw new Error('a grantee sets the clock')
}

/** 36: who may read one collection until a certain hour writes it, reads another, or stays. */
export const grantEscalation: Attack = () => each([writes(), readsAnother(), stays(), returns()])

async function writes(): Promise<Outcome> {
  const { pod, notes, asGrantee } = await opened()
  const session = await asGrantee()
  await read(pod, session, notes)
  return refusedFor('scope', async () => (await seal(pod, session, notes)).kind === 'sealKeys')
}
async function readsAnother(): Promise<Outcome> {
  const { pod, diary, asGrantee } = await opened()
  const session = await asGrantee()
  return refusedFor('scope', async () => (await read(pod, session, diary)).kind === 'found')
}

async function untilTheGrantEnds(owner: Person, pod: TestPod, time: TestTime, session: Intrusion, coll: Uint8Array) {
  const owners = await intrude(pod, { sign: owner.sign })
  for (let minutes = 0; minutes < 50; minutes += 10) {
    time.seconds += 10 * MINUTE
    await read(pod, owners, coll)
    await read(pod, session, coll)
  }
  time.seconds += 11 * MINUTE
  await read(pod, owners, coll)
}
async function stays(): Promise<Outcome> {
  const { owner, pod, time, notes, asGrantee } = await opened()
  const session = await asGrantee()
  await untilTheGrantEnds(owner, pod, time, session, notes)
  return refusedFor('not-found', async () => (await read(pod, session, notes)).kind === 'found')
}
async function returns(): Promise<Outcome> {
  const { owner, pod, time, notes, asGrantee } = await opened()
  await untilTheGrantEnds(owner, pod, time, await asGrantee(), notes)
  await checkNoRedelegation(pod, owner)
  return refusedFor('handshake', async () => (await read(pod, await asGrantee(), notes)).kind === 'found')
}

/** A grant under a grant says nothing to anybody: only a device certificate can stand where its issuer stands. */
async function checkNoRedelegation(pod: TestPod, owner: Person): Promise<void> {
  const scopes = [{ collection: owner.collection('notes'), verbs: ['read'], filter: null }]
  const own = await owner.grantee(scopes)
  const friend = await owner.grantee(scopes, { issuerCert: own.credential })
  const code = await codeOf(() => intrude(pod, { credential: friend.credential, sign: friend.sign }))
  if (code !== 'handshake') throw new Error('a grantee has granted')
}
