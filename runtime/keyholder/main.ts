/**
 * The keyholder's process: two listening sockets, the supervisor's verbs, the hand-over pipes. Everything it decides
 * is in `keyholder.ts`.
 */
import * as crypto from 'node:crypto'
import { readFileSync } from 'node:fs'
import { url as inspectorUrl } from 'node:inspector'
import { join } from 'node:path'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { decodeLaunchConfig, launchHash, routingId } from '../../attestation/session/index.ts'
import { machineAttester } from '../attester/machine.ts'
import { simulatedAttester } from '../attester/simulated.ts'
import { sockets } from '../edge/verbs.ts'
import { listen } from '../link.ts'
import { type Role, readHandover, startRole, writeHandover } from '../role.ts'
import type { RoleConfigs } from '../config.ts'
import { decodeHandover, type Handover } from './handover.ts'
import { Keyholder, type Ports } from './keyholder.ts'
import { ApiLink, serveEdge } from './serve.ts'

type KeyholderRole = Role<RoleConfigs['keyholder']>

const TICK_MS = 1_000
/** The answer to whoever locks goes out before the supervisor ends this process. */
const LOCK_GRACE_MS = 100

const p = nodePrimitives(crypto)
const monotonic = () => Number(process.hrtime.bigint()) / 1e9
const delay = (milliseconds: number) => new Promise<void>(done => void setTimeout(done, milliseconds).unref())

/** The supervisor, by its one-byte verbs. `H` is answered by whoever is given as `handOver`. */
function supervisorPort(role: KeyholderRole, handOver: () => void): Ports['supervisor'] {
  let opening: ((opened: boolean) => void) | null = null
  role.onVerb(verb => {
    if (verb === 'H') handOver()
    if (verb === 'o' || verb === 'x') opening?.(verb === 'o')
  })
  return {
    open(diskKey) {
      const { promise, resolve } = Promise.withResolvers<boolean>()
      opening = resolve
      role.send('O', diskKey)
      return promise
    },
    replace: () => role.send('R'),
    lock: () => void setTimeout(() => role.send('L'), LOCK_GRACE_MS),
  }
}

function readIdentity(role: KeyholderRole, handover: Handover | null) {
  const encoded = new Uint8Array(readFileSync(role.config.launchConfig))
  const { owner, podId } = decodeLaunchConfig(encoded)
  const launch = launchHash(p, encoded)
  const bootId = handover?.bootId ?? p.random(16)
  return { owner, podId, launch, bootId, rid: routingId(p, owner.key), manifest: role.config.manifestVersion }
}

async function main(): Promise<void> {
  if (inspectorUrl() !== undefined) throw new Error('a keyholder runs without an inspector')
  const role = startRole('keyholder')
  const api = new ApiLink()
  const { promise: keyholder, resolve } = Promise.withResolvers<Keyholder>()
  const handOver = async () => {
    const message = await (await keyholder).handOver()
    if (message === null) process.exit(1) // nothing to hand over: a lock
    writeHandover(message)
    process.exit(0)
  }
  const supervisor = supervisorPort(role, () => void handOver())
  await listen(join(role.run, sockets.keyholderEdge), stream => serveEdge(keyholder, stream))
  await listen(join(role.run, sockets.keyholderApi), (stream, link) => api.serve(keyholder, stream, link))
  role.send('r')

  const message = await readHandover()
  const handover = decodeHandover(message)
  message.fill(0)
  const identity = readIdentity(role, handover)
  const { attester: wanted } = role.config
  const attester =
    wanted.kind === 'simulated'
      ? simulatedAttester(p, wanted.socket)
      : await machineAttester(p, { launch: identity.launch, simulated: wanted.simulated })
  const ports: Ports = { p, attester, supervisor, store: api.store, monotonic, delay }
  const made = new Keyholder(ports, identity)
  if (handover !== null) await made.inherit(handover)
  setInterval(() => made.tick(), TICK_MS)
  resolve(made)
}

await main()
