/** (a) What the handshake adds to the cryptography in it: both ends' state machines against their bare operations. */
import crypto from 'node:crypto'
import { AppraisedPod, appraise, noCollateral, type Given } from '../../attestation/appraise.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import { simulationPolicy } from '../../attestation/policy.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { openReferenceValues } from '../../attestation/reference-values.ts'
import { authenticate, confirm, receiveHello, startHandshake } from '../../attestation/session/client.ts'
import { rootCredential } from '../../attestation/session/credentials.ts'
import { encodeLaunchConfig, launchHash } from '../../attestation/session/launch.ts'
import { acceptAuth, answerHello, decodeAuth, finishHello, sealFin } from '../../attestation/session/pod.ts'
import { routingId } from '../../attestation/session/transcript.ts'
import { installedSilicon, openInstallation, snpMeasured } from '../installation.ts'
import { cpuMicroseconds, cpuMicrosecondsSync } from './measure.ts'
import { median, type Row } from './rows.ts'
import type { StateFolder } from '../../client/owner/folder.ts'

const p = nodePrimitives(crypto)
const ROUNDS = 5
const TIMES = 200

/** Counts calls by name; what they cost is measured without us. */
function counting(into: Map<string, number>): SyncPrimitives {
  const count = (name: string) => into.set(name, (into.get(name) ?? 0) + 1)
  return Object.fromEntries(
    Object.entries(p).map(([name, operation]) =>
      typeof operation === 'object'
        ? [name, operation]
        : [
            name,
            (...args: never[]) => {
              count(name)
              return (operation as (...args: never[]) => unknown)(...args)
            },
          ],
    ),
  ) as unknown as SyncPrimitives
}

const plain = (buffer: Uint8Array) => Buffer.from(buffer.buffer, buffer.byteOffset, buffer.byteLength)

/** Each operation straight on node:crypto, with the import of the keys that arrive as bytes. */
function bareOperations(): Record<string, () => unknown> {
  const edPrefix = Buffer.from('302e020100300506032b657004220420', 'hex')
  const edPublicPrefix = Buffer.from('302a300506032b6570032100', 'hex')
  const seed = p.random(32)
  const message = p.random(140)
  const publicKey = p.ed25519PublicKey(seed)
  const signature = p.ed25519Sign(seed, message)
  const raw = p.random(32)
  const key = crypto.createSecretKey(raw)
  const nonce = p.random(12)
  const [short, long] = [p.random(64), p.random(1332)]
  const sealed = plain(p.seal(p.aeadKey(raw), nonce, short, short))
  const kem = p.kemKeyPair(seed)
  const encapsulated = p.kemEncapsulate(kem.publicKey)
  if (encapsulated === null) throw new Error('the KEM does not encapsulate')
  const hmac = () => crypto.createHmac('sha256', key).update(short).digest()
  return {
    random: () => crypto.randomBytes(32),
    sha256: () => crypto.hash('sha256', long, 'buffer'),
    sha512: () => crypto.hash('sha512', short, 'buffer'),
    macKey: () => crypto.createSecretKey(raw),
    hmac,
    hkdfExtract: () => crypto.createHmac('sha256', crypto.createSecretKey(raw)).update(short).digest(),
    hkdfExpand: hmac,
    aeadKey: () => crypto.createSecretKey(raw),
    seal: () => {
      const cipher = crypto.createCipheriv('aes-256-gcm', key, nonce).setAAD(short)
      return [cipher.update(short), cipher.final(), cipher.getAuthTag()]
    },
    open: () => {
      const decipher = crypto.createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 }).setAAD(short)
      decipher.setAuthTag(sealed.subarray(sealed.length - 16))
      return [decipher.update(sealed.subarray(0, sealed.length - 16)), decipher.final()]
    },
    ed25519Sign: () => {
      const imported = crypto.createPrivateKey({ key: Buffer.concat([edPrefix, seed]), format: 'der', type: 'pkcs8' })
      return crypto.sign(null, message, imported)
    },
    ed25519Verify: () => {
      const imported = crypto.createPublicKey({
        key: Buffer.concat([edPublicPrefix, publicKey]),
        format: 'der',
        type: 'spki',
      })
      return crypto.verify(null, message, imported, signature)
    },
    // The KEM is a primitive by itself: ML-KEM-768 and X25519 of this Node, and the hash that joins them.
    kemKeyPair: () => p.kemKeyPair(seed),
    kemEncapsulate: () => p.kemEncapsulate(kem.publicKey),
    kemDecapsulate: () => p.kemDecapsulate(kem.secret, encapsulated.encapsulation),
  }
}

export async function benchHandshake(folder: StateFolder): Promise<Row[]> {
  const now = Math.floor(Date.now() / 1000)
  const silicon = await installedSilicon(`${folder.path}/silicon`, now)
  const installation = await openInstallation(folder)
  const ownerSeed = p.random(32)
  const owner = { algorithm: 1 as const, key: p.ed25519PublicKey(ownerSeed) }
  const launch = encodeLaunchConfig({
    podId: p.random(16),
    owner,
    nextOwner: new Uint8Array(32),
    release: { threshold: 1, keys: [{ algorithm: 1, key: installation.releaseKey }] },
    minManifest: 1,
  })
  const measurement = p.random(48)
  const { bytes } = await installation.manifestFor(snpMeasured(measurement), now)
  const manifest = await openReferenceValues(p, bytes, { threshold: 1, keys: [[1, installation.releaseKey]] })
  const launched = launchHash(p, launch)
  const policy = simulationPolicy(
    {
      manifest,
      manifestFloor: 1,
      launchHash: launched,
      launchHash384: p.sha384(launch),
      platform: { waive: 'a bench' },
    },
    silicon.rootSha256,
  )
  const rid = routingId(p, owner.key)

  /** The quote is the hardware's own time; one report per bench, so the client's binding check is given its answer. */
  const handshake = async (
    of: SyncPrimitives,
    judge: (evidence: Uint8Array, nonce: Uint8Array) => Promise<AppraisedPod>,
  ) => {
    const sent = startHandshake(of, { rid, monotonicSeconds: 0 })
    const answered = await answerHello(
      of,
      { launch: launched, bootId: rid.subarray(0, 16), monotonicSeconds: 0 },
      sent.hello,
    )
    const awaiting = finishHello(of, answered, quote.evidence)
    const received = { ...receiveHello(of, sent, awaiting.podHello), reportData: quote.nonce }
    const pod = await judge(received.evidence, received.reportData)
    const auth = await authenticate(of, received, pod, {
      launch,
      credential: rootCredential(),
      sign: message => of.ed25519Sign(ownerSeed, message),
      time: now,
      monotonicSeconds: 1,
    })
    const accepted = await acceptAuth(of, awaiting, decodeAuth(auth.auth), { ...judging, monotonicSeconds: 1 })
    const fin = { idleSeconds: 900, maxSeconds: 43200, state: 1 as const, head: null, manifest: 1, lane: null }
    await confirm(of, auth, await sealFin(of, accepted, fin))
  }
  const judging = { owner, podId: new Uint8Array(16), now, policy: null }
  const quote: { evidence: Uint8Array; nonce: Uint8Array } = { evidence: new Uint8Array(), nonce: p.random(64) }
  const { report, certs } = await silicon.report({ measurement, hostData: launched }, quote.nonce)
  quote.evidence = encodeEvidence([
    ['snp-report', report],
    ['certs', certs],
  ])
  const given = (of: SyncPrimitives, nonce: Uint8Array): Given => ({
    collateral: noCollateral,
    policy,
    nonce,
    now,
    primitives: of,
  })
  const verdict = await appraise(quote.evidence, given(p, quote.nonce))
  if (!verdict.accepted) throw new Error(`the bench's own evidence is refused: ${verdict.detail}`)
  const judged = async () => verdict.pod

  const counts = new Map<string, number>()
  await handshake(counting(counts), judged)
  const bare = bareOperations()
  const ratios: number[] = []
  let [ours, sum] = [0, 0]
  for (let round = 0; round < ROUNDS; round++) {
    sum = 0
    for (const [name, times] of counts) {
      const operation = bare[name]
      if (operation === undefined) throw new Error(`no bare form of ${name}`)
      cpuMicrosecondsSync(20, operation)
      sum += times * cpuMicrosecondsSync(TIMES, operation)
    }
    await cpuMicroseconds(20, () => handshake(p, judged))
    ours = await cpuMicroseconds(TIMES, () => handshake(p, judged))
    ratios.push(ours / sum)
  }
  const operations = [...counts.values()].reduce((all, each) => all + each, 0)
  return [
    {
      name: 'a',
      what: 'handshake CPU of both ends, against the sum of its bare primitive operations',
      ratio: median(ratios),
      bound: { atMost: 2 },
      detail: `last round: ${ours.toFixed(0)} us for ${operations} operations that take ${sum.toFixed(0)} us bare; without quote and appraisal`,
    },
  ]
}
