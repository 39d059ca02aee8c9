/**
 * The keyholder's process: two listening sockets, the supervisor's verbs, the hand-over pipes. Everything it decides
 * is in `keyholder.ts`.
 */
import * as crypto from 'node:crypto'
import { readFileSync } from 'node:fs'
import { url as inspectorUrl } from 'node:inspector'
import { join } from 'node:path'
import { Refusal, Unavailable } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { decodeLaunchConfig, launchHash, routingId } from '../../attestation/session/index.ts'
import { decode, encodeAs } from '../../attestation/wire.ts'
import { simulatedAttester } from '../attester/simulated.ts'
import { KEYHOLDER_VERB_CAP, keyholderVerb, phases, sockets, statusAnswer } from '../edge/verbs.ts'
import { type Link, type LinkStream, listen, reset } from '../link.ts'
import { type Role, readHandover, startRole, writeHandover } from '../role.ts'
import type { RoleConfigs } from '../config.ts'
import { decodeHandover, type Handover } from './handover.ts'
import { Keyholder, type Ports, UnknownSession } from './keyholder.ts'
import { ask, question } from './messages.ts'
import { apiAnswer, apiRequest, keyholderAnswer, keyholderRequest, MESSAGE_CAP } from './verbs.ts'

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

/** What a refusal is on the edge's link (PROTOCOL 2.8): nothing of its cause leaves this process. */
function resetCode(error: unknown) {
  if (error instanceof UnknownSession) return reset.unknownSession
  if (error instanceof Unavailable) return reset.busy
  if (error instanceof Refusal) return reset.refused
  return reset.gone
}

async function answerEdge(keyholder: Keyholder, head: Uint8Array): Promise<Uint8Array> {
  const verb = decode(keyholderVerb, head, KEYHOLDER_VERB_CAP)
  if (verb.kind === 'hello') return await keyholder.hello(verb.body)
  if (verb.kind === 'auth') return await keyholder.auth(verb.body)
  if (verb.kind === 'control') return await keyholder.control(verb.sid, verb.n, verb.body)
  return encodeAs(statusAnswer, keyholder.phase satisfies keyof typeof phases & number)
}

async function serveEdge(keyholder: Promise<Keyholder>, stream: LinkStream): Promise<void> {
  try {
    await stream.end(await answerEdge(await keyholder, stream.head))
  } catch (error) {
    stream.reset(resetCode(error))
  }
}

/** The api's link: the one that attached last is the one over which the keyholder asks. */
class ApiLink {
  #link: Link | null = null

  readonly store: Ports['store'] = {
    ask: async request => {
      if (this.#link === null) throw new Unavailable('the api is not there')
      const answer = await ask(this.#link, encodeAs(keyholderRequest, request))
      return decode(apiAnswer, answer, MESSAGE_CAP)
    },
  }

  async serve(pending: Promise<Keyholder>, stream: LinkStream, link: Link): Promise<void> {
    const keyholder = await pending
    const request = decode(apiRequest, await question(stream), MESSAGE_CAP)
    const answer = await keyholder.answer(request)
    await stream.end(encodeAs(keyholderAnswer, answer))
    if (request.kind !== 'attach') return
    this.#link = link
    void link.closed.then(() => {
      if (this.#link === link) this.#link = null
    })
    await keyholder.announce()
  }
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

  const handover = decodeHandover(await readHandover())
  const attester = simulatedAttester(p, role.config.attester.socket)
  const ports: Ports = { p, attester, supervisor, store: api.store, monotonic, delay }
  const made = new Keyholder(ports, readIdentity(role, handover))
  if (handover !== null) await made.inherit(handover)
  setInterval(() => made.tick(), TICK_MS)
  resolve(made)
}

await main()
