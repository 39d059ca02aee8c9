/** One pod's life on the release image: attest, unlock, save, lock, power cut; and what its memory holds meanwhile. */
import crypto from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fromHex } from '../../attestation/bytes.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { collectionKey, diskKey, itemKey, operation, stateKey } from '../../attestation/session/release.ts'
import {
  collectionId,
  connect,
  getMemories,
  lock,
  releaseKeys,
  saveMemory,
  type Session,
  status,
} from '../../client/index.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import type { ReleasingOwner } from '../../client/session/owner.ts'
import { startVmPod, type VmPod } from '../../scripts/vm/pod.ts'
import { dumpMemory, type Found, type Needles, saltsOf, search, total } from './memory.ts'
import type { Report } from './report.ts'

const p = nodePrimitives(crypto)
/** Long enough to be released and found in memory, short enough to be waited for. */
const SHORT_LEASE_SECONDS = 90
const PATIENCE_MS = 240_000

export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = performance.now() + PATIENCE_MS; !(await condition()); await sleep(200)) {
    if (performance.now() > end) throw new Error(`waited in vain: ${what}`)
  }
}

export const open = (pod: VmPod): Promise<Session<ReleasingOwner>> =>
  connect<ReleasingOwner>(pod.url, pod.owner, { primitives: p })

/** Every key that a release gives, as the owner derives them. */
function releasedKeys(session: Session<ReleasingOwner>): Needles {
  const { ors, drs, epoch } = session.owner.roots
  const data = p.macKey(drs)
  const collection = (name: string) => collectionKey(p, data, collectionId(p, session.namespace, name), epoch)
  return {
    'state key': stateKey(p, data, session.podId, epoch),
    'disk key': diskKey(p, p.macKey(ors), session.podId),
    'key of memories': collection('memories'),
    'key of documents': collection('documents'),
  }
}

const shown = (found: Found) =>
  Object.entries(found)
    .map(([name, { raw, hex, base64 }]) => `${name} ${raw}/${hex}/${base64}`)
    .join(', ')

/** Keys of the memory's sealings that lie in the dump. */
function itemKeys(dump: string, session: Session<ReleasingOwner>, id: string): Needles {
  const collection = collectionId(p, session.namespace, 'memories')
  const itemId = fromHex(id) as Uint8Array
  const { drs, epoch } = session.owner.roots
  const key = p.macKey(collectionKey(p, p.macKey(drs), collection, epoch))
  const salts = [...saltsOf(dump, collection, itemId)]
  return Object.fromEntries(
    salts.map(([salt, version], i) => [
      `item key ${i + 1}`,
      itemKey(p, key, itemId, version, fromHex(salt) as Uint8Array),
    ]),
  )
}

async function texts(session: Session<ReleasingOwner>): Promise<string[]> {
  const found: string[] = []
  for await (const { text } of getMemories(session)) found.push(text)
  return found
}

function checkAll(report: Report, when: string, found: Found, wanted: (name: string) => boolean): void {
  for (const name of Object.keys(found)) {
    const times = total(found, name)
    const good = wanted(name) ? times > 0 : times === 0
    report.check(`${when}: ${name} is ${wanted(name) ? '' : 'not '}in memory`, good, `found ${times} times`)
  }
}

/** What is in memory at each station of a pod's life (attack row 33). */
export async function life(report: Report, imageFolder: string): Promise<void> {
  const home = mkdtempSync(join(tmpdir(), 'vm-life-'))
  const dump = join(home, 'memory')
  const folder = await StateFolder.open(join(home, 'owner'))
  const start = () =>
    startVmPod({
      folder,
      imageFolder,
      passphrase: async () => new Uint8Array(),
      dataDiskBytes: 256 * 1024 * 1024,
    })
  let pod: VmPod | null = null
  try {
    const first = await report.step('boots to locked, under firmware that checks what it loads', start)
    pod = first
    let session = await report.step('its evidence is accepted by the policy that names this installation', () =>
      open(first),
    )
    report.equal('it says what signed it', session.claims.platform, 'simulated-snp')
    report.equal('it is locked', (await status(session)).state, 'locked')
    const keys = releasedKeys(session)
    const look = async (more: Needles = {}) => {
      await dumpMemory(first.monitor, dump)
      return search(dump, { ...keys, ...more })
    }
    checkAll(report, 'before the release', await look(), () => false)

    await report.step('a first release makes the disk and unlocks', () =>
      releaseKeys(session, { collections: ['memories'] }),
    )
    const short = {
      maxSeconds: SHORT_LEASE_SECONDS,
      idleSeconds: SHORT_LEASE_SECONDS,
      operations: operation.open | operation.seal,
    }
    const releasedAt = performance.now()
    await report.step('another gives a key with a short lease', () =>
      releaseKeys(session, { collections: ['documents'], lease: short }),
    )
    const { id } = await report.step('saves', () => saveMemory(session, { text: 'under the third pot' }))
    report.equal('reads it back', await texts(session), ['under the third pot'])
    await dumpMemory(first.monitor, dump)
    const used = itemKeys(dump, session, id)
    report.check('sealed rows of the memory are in memory', Object.keys(used).length > 0)
    checkAll(report, 'unlocked', search(dump, { ...keys, ...used }), () => true)

    await report.step('the short lease ends', () =>
      until('lease end', () => first.console().includes('"why":"lease end"')),
    )
    report.check('not before its time', performance.now() - releasedAt > (SHORT_LEASE_SECONDS - 1) * 1000)
    checkAll(report, 'after the end of one lease', await look(), name => name !== 'key of documents')
    report.equal('the other key still opens', await texts(session), ['under the third pot'])

    await report.step('locks', () => lock(session))
    session.close()
    await until('locked', () => first.console().includes('"why":"lock"'))
    const afterLock = await look(used)
    checkAll(report, 'after the lock', afterLock, () => false)
    console.log(`        raw/hex/base64: ${shown(afterLock)}`)

    session = await open(first)
    await report.step('unlocks again', () => releaseKeys(session))
    report.equal('the data is there', await texts(session), ['under the third pot'])
    session.close()
    await report.step('the power is cut', () => first.stop())
    const second = await report.step('boots again', start)
    pod = second
    await dumpMemory(second.monitor, dump)
    checkAll(report, 'after the restart', search(dump, { ...keys, ...used }), () => false)
    const again = await open(second)
    await report.step('unlocks after the restart', () => releaseKeys(again))
    report.equal('what was acknowledged is there', await texts(again), ['under the third pot'])
    again.close()
  } finally {
    await pod?.stop()
    rmSync(home, { recursive: true, force: true })
  }
}
