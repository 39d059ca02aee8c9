// The honest roles, on the product's own state machines. A role is a function of what was delivered to it: for each new
// history it is run again from its beginning, so that nothing a machine changes inside leaks from one trace to another.
import { appraise, noCollateral } from '../../attestation/appraise.ts'
import { hex } from '../../attestation/bytes.ts'
import { Refusal } from '../../attestation/errors.ts'
import type { Policy } from '../../attestation/policy.ts'
import { authenticate, confirm, receiveHello, startHandshake } from '../../attestation/session/client.ts'
import { rootCredential } from '../../attestation/session/credentials.ts'
import type { PublicKey } from '../../attestation/session/keys.ts'
import { launchHash } from '../../attestation/session/launch.ts'
import { acceptAuth, answerHello, decodeAuth, finishHello, sealFin } from '../../attestation/session/pod.ts'
import {
  CONTROL_CAP,
  controlRequest,
  decodeKeyRelease,
  encodeKeyRelease,
  NO_COLLECTION,
  purpose,
} from '../../attestation/session/release.ts'
import {
  decodePadded,
  encodePadded,
  openWhole,
  requestOpener,
  requestSealer,
  sealWhole,
  streamKeys,
} from '../../attestation/session/streams.ts'
import { routingId, type StreamSecrets } from '../../attestation/session/transcript.ts'
import type { Changes, TestChip } from '../../tests/support/vendor.ts'
import type { Repeatable } from './primitives.ts'

export const NOW = 1_767_225_600

/** One chip. What it signs is remembered: its signatures are random, and a trace must be repeatable. */
export class Chip {
  readonly silicon: TestChip
  readonly #made = new Map<string, Promise<Uint8Array>>()
  constructor(silicon: TestChip) {
    this.silicon = silicon
  }
  /** `claimedChipId`: what whoever holds the key writes into the report. */
  evidence(
    measurement: Uint8Array,
    hostData: Uint8Array,
    reportData: Uint8Array,
    claimedChipId = this.silicon.chipId,
  ): Promise<Uint8Array> {
    const key = [measurement, hostData, reportData, claimedChipId].map(hex).join(' ')
    const changes: Changes = { chipId: claimedChipId }
    const made = this.#made.get(key) ?? this.silicon.evidence({ measurement, hostData }, reportData, changes)
    this.#made.set(key, made)
    return made
  }
}

export type Owner = Readonly<{ name: string; seed: Uint8Array; publicKey: Uint8Array; launch: Uint8Array }>

/** A control stream's message that releases one key, as a client seals it. */
export async function sealRelease(repeatable: Repeatable, ctl: StreamSecrets, key: Uint8Array): Promise<Uint8Array> {
  const { primitives: p } = repeatable
  const release = encodeKeyRelease({
    sequence: 1,
    time: NOW,
    policy: new Uint8Array(),
    knownHead: null,
    recovering: 0,
    manifest: 1,
    keys: [
      {
        kid: new Uint8Array(16),
        purpose: purpose.state,
        collection: NO_COLLECTION,
        epoch: 0,
        key,
        lease: { maxSeconds: 60, idleSeconds: 60, operations: 1 },
      },
    ],
    egress: [],
  })
  const message = encodePadded(controlRequest, { kind: 'release', release })
  return sealWhole(requestSealer(p, streamKeys(p, ctl), 0), message)
}

/** The key in such a message. Throws a Refusal where the secrets do not open it. */
export async function openRelease(repeatable: Repeatable, ctl: StreamSecrets, sealed: Uint8Array): Promise<Uint8Array> {
  const { primitives: p } = repeatable
  const opened = await openWhole(requestOpener(p, streamKeys(p, ctl), 0), sealed)
  const request = decodePadded(controlRequest, opened, CONTROL_CAP)
  const [released] = request.kind === 'release' ? decodeKeyRelease(request.release).keys : []
  if (released === undefined) throw new Error('not a release')
  return released.key
}

/** What a role has come to. `said` is heard by everybody. */
export type Progress = Readonly<{
  said: Uint8Array | null
  /** Names the session for both ends: the control secrets. Set once the role believes in it. */
  session: string | null
  /** What a pod took, or a client released: hexadecimal. */
  key: string | null
}>

const nothing: Progress = { said: null, session: null, key: null }

export interface Role {
  readonly name: string
  /** Null where the last of the messages is refused. */
  run(messages: readonly Uint8Array[]): Promise<Progress | null>
}

/** A refusal is a verdict; anything else is a fault of the machine or of this program. */
async function verdict(attempt: () => Promise<Progress | null>): Promise<Progress | null> {
  try {
    return await attempt()
  } catch (error) {
    if (error instanceof Refusal) return null
    throw error
  }
}

/** Hello; PodHello in, Auth out; PodFin in, the release of its key out. */
export class Client implements Role {
  readonly name: string
  readonly key: Uint8Array
  readonly #repeatable: Repeatable
  readonly #owner: Owner
  readonly #policy: Policy

  constructor(name: string, repeatable: Repeatable, owner: Owner, policy: Policy, key: Uint8Array) {
    this.name = name
    this.key = key
    this.#repeatable = repeatable
    this.#owner = owner
    this.#policy = policy
  }

  run([podHello, fin]: readonly Uint8Array[]): Promise<Progress | null> {
    const { primitives: p } = this.#repeatable
    this.#repeatable.begin(this.name)
    return verdict(async () => {
      const sent = startHandshake(p, { rid: routingId(p, this.#owner.publicKey), monotonicSeconds: 0 })
      if (podHello === undefined) return { ...nothing, said: sent.hello }
      const received = receiveHello(p, sent, podHello)
      const appraisal = await appraise(received.evidence, {
        collateral: noCollateral,
        policy: this.#policy,
        nonce: received.reportData,
        now: NOW,
        primitives: p,
      })
      if (!appraisal.accepted) return null
      const authenticated = await authenticate(p, received, appraisal.pod, {
        launch: this.#owner.launch,
        credential: rootCredential(),
        sign: message => p.ed25519Sign(this.#owner.seed, message),
        time: NOW,
        monotonicSeconds: 1,
      })
      if (fin === undefined) return { ...nothing, said: authenticated.auth }
      const { ctl } = await confirm(p, authenticated, fin)
      const said = await sealRelease(this.#repeatable, ctl, this.key)
      return { said, session: hex(ctl.c2s), key: hex(this.key) }
    })
  }
}

/** Hello in, PodHello out; Auth in, PodFin out; a release in. */
export class Pod implements Role {
  readonly name: string
  readonly #repeatable: Repeatable
  readonly #owner: Owner
  readonly #chip: Chip
  readonly #measurement: Uint8Array

  constructor(name: string, repeatable: Repeatable, owner: Owner, chip: Chip, measurement: Uint8Array) {
    this.name = name
    this.#repeatable = repeatable
    this.#owner = owner
    this.#chip = chip
    this.#measurement = measurement
  }

  run([hello, auth, release]: readonly Uint8Array[]): Promise<Progress | null> {
    const { primitives: p } = this.#repeatable
    this.#repeatable.begin(this.name)
    return verdict(async () => {
      if (hello === undefined) return nothing
      const launch = launchHash(p, this.#owner.launch)
      const given = {
        launch,
        bootId: p.random(16),
        rid: routingId(p, this.#owner.publicKey),
        monotonicSeconds: 0,
      }
      const answered = await answerHello(p, given, hello)
      const evidence = await this.#chip.evidence(this.#measurement, launch, answered.reportData)
      const awaiting = finishHello(p, answered, evidence)
      if (auth === undefined) return { ...nothing, said: awaiting.podHello }
      const owner: PublicKey = { algorithm: 1, key: this.#owner.publicKey }
      const judging = { owner, podId: new Uint8Array(16), policy: null, now: NOW, monotonicSeconds: 1 }
      const accepted = await acceptAuth(p, awaiting, decodeAuth(auth), judging)
      const { ctl } = accepted.session
      const fin = { idleSeconds: 60, maxSeconds: 60, state: 1, head: null, manifest: 1, lane: null } as const
      const said = await sealFin(p, accepted, fin)
      if (release === undefined) return { said, session: hex(ctl.c2s), key: null }
      const key = await openRelease(this.#repeatable, ctl, release)
      return { said: null, session: hex(ctl.c2s), key: hex(key) }
    })
  }
}
