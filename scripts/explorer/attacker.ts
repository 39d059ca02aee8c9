/**
 * The attacker: the network is his, and so is every machine but the honest chip. His moves are generic, none is written
 * for a variant. He delivers
 *  - to a pod any hello he heard, or one of his own;
 *  - to a client any PodHello he can put together: nonce, sid and boot id of one core (a heard one or his own), the KEM
 *    key of any, the launch hash of either owner, and any evidence he heard or can have made for exactly this core;
 *  - to a pod any Auth he heard, re-addressed, or one of his own under any signature he could read or make;
 *  - any PodFin and any release that he heard or can seal.
 * Evidence he has made with the broken chip's key (any measurement, any owner), by an image of his own on the honest
 * chip, and, where the variant says so, by an oracle in the genuine image. He also runs the genuine image on the honest
 * chip for himself (the stranger's pod), gives it the hellos he hears, and knows everything that this pod knows.
 */
import { hex, utf8 } from '../../attestation/bytes.ts'
import { Refusal } from '../../attestation/errors.ts'
import type { KemSecret } from '../../attestation/primitives/primitives.ts'
import { rootCredential } from '../../attestation/session/credentials.ts'
import { setupReceiver, setupSender } from '../../attestation/session/hpke.ts'
import { launchHash } from '../../attestation/session/launch.ts'
import {
  AUTH_CAP,
  auth,
  authPayload,
  clientAuthMessage,
  clientHello,
  FIN_NONCE,
  hpkeInfo,
  MASTER_LABEL,
  POD_HELLO_CAP,
  type PodHelloCore,
  podFin,
  podHello,
  podHelloCore,
  type QuotePurpose,
  reportData,
  routingId,
  SUITE,
  type SessionSecrets,
  sessionSecrets,
  transcript0,
  transcript1,
  transcript2,
} from '../../attestation/session/transcript.ts'
import { decode, encodeAs } from '../../attestation/wire.ts'
import type { Repeatable } from './primitives.ts'
import { type Chip, NOW, type Owner, openRelease, type Role, sealRelease } from './roles.ts'

export type Powers = Readonly<{
  /** An earlier session of the owner's pod has ended, and its KEM secret has leaked since. */
  endedSessionLeaked: boolean
  /** What other software beside the genuine image can have quoted: nothing, anything, or only for another purpose. */
  oracle: 'none' | 'anything' | 'another purpose'
}>

export type World = Readonly<{
  repeatable: Repeatable
  honestChip: Chip
  brokenChip: Chip
  genuine: Uint8Array
  evil: Uint8Array
  owner: Owner
  stranger: Owner
  /** The stranger's genuine pod on the honest chip: a fresh one for each hello. */
  strangersPod: (about: string) => Role
  /** The owner's pod in the session that has ended. */
  endedPod: Role
  powers: Powers
}>

/** What an honest role has heard and said so far, as everybody on the wire saw it. */
export type Seen = Readonly<{ name: string; heard: readonly Message[]; said: readonly (Uint8Array | null)[] }>
/** Names what a role has come to after so many messages. */
export const after = ({ name, heard }: Seen, messages: number): string =>
  [name, ...heard.slice(0, messages).map(each => each.name)].join(' < ')

type Session = Readonly<{ th2: Uint8Array; secrets: SessionSecrets }>
/** Bytes to deliver, and the secrets of the session they open, where the attacker made it. */
export type Message = Readonly<{ name: string; bytes: Uint8Array; session: Session | null }>
/** A message by its name; it is only made where nobody has tried it yet. */
export type Move = Readonly<{ name: string; make: () => Promise<Message> }>

/** The report data that a core needs, for a purpose. */
type Data = (purpose: QuotePurpose) => Uint8Array
type Maker = readonly [how: string, make: (data: Data) => Promise<Uint8Array>]
type Answer = Readonly<{ name: string; core: PodHelloCore; evidence: Uint8Array }>
type Opened = Session & Readonly<{ signature: Uint8Array }>

const given = (name: string, bytes: Uint8Array): Move => ({
  name,
  make: async () => ({ name, bytes, session: null }),
})

function readAnswer(name: string, bytes: Uint8Array): Answer {
  const { core, evidence } = decode(podHello, bytes, POD_HELLO_CAP)
  return { name, core: decode(podHelloCore, core, core.length), evidence }
}

/** The KEM key in the PodHello that a client accepted. */
export const kemKeyGiven = (client: Seen): Uint8Array =>
  readAnswer('', (client.heard[0] as Message).bytes).core.kemPublicKey

export class Attacker {
  readonly #world: World
  readonly #ownHello: Uint8Array
  readonly #ownCore: PodHelloCore
  /** Private halves of KEM keys, by public half. */
  readonly #holds = new Map<string, KemSecret>()
  readonly #answers = new Map<string, Promise<Answer | null>>()
  readonly #opened = new Map<string, Promise<Opened | null>>()

  constructor(world: World) {
    this.#world = world
    const { repeatable, owner } = world
    const { primitives: p } = repeatable
    const own = (length: number) => new Uint8Array(length).fill(0xaa)
    const rid = routingId(p, owner.publicKey)
    this.#ownHello = encodeAs(clientHello, { suites: [SUITE], nonce: own(32), rid, cb: null, lane: null })
    const { publicKey, secret } = p.kemKeyPair(own(32))
    this.#holds.set(hex(publicKey), secret)
    this.#ownCore = {
      suite: SUITE,
      nonce: own(32),
      sid: own(16),
      kemPublicKey: publicKey,
      launch: launchHash(p, owner.launch),
      bootId: own(16),
    }
  }

  hellos(clients: readonly Seen[]): Move[] {
    const heard = this.#heardHellos(clients).map(({ name, bytes }) => given(name, bytes))
    return [...heard, given('own hello', this.#ownHello)]
  }
  #heardHellos(clients: readonly Seen[]): { name: string; bytes: Uint8Array }[] {
    return clients.map(client => ({ name: `${client.name}'s hello`, bytes: client.said[0] as Uint8Array }))
  }

  async podHellos(target: Seen, clients: readonly Seen[], pods: readonly Seen[]): Promise<Move[]> {
    const answers = await this.#allAnswers(clients, pods)
    const own: Answer = { name: 'own', core: this.#ownCore, evidence: new Uint8Array() }
    const moves: Move[] = []
    for (const identity of [...answers, own]) {
      for (const key of [...answers, own]) {
        for (const launchedFor of [this.#world.owner, this.#world.stranger]) {
          const name = `${identity.name} with the KEM key of ${key.name}, for the ${launchedFor.name}`
          const launch = launchHash(this.#world.repeatable.primitives, launchedFor.launch)
          const core = { ...identity.core, kemPublicKey: key.core.kemPublicKey, launch }
          moves.push(...this.#withEvidence(name, target, core, answers))
        }
      }
    }
    return moves
  }

  /** One core under every evidence: heard, or made to fit it. */
  #withEvidence(name: string, target: Seen, coreFields: PodHelloCore, answers: readonly Answer[]): Move[] {
    const core = encodeAs(podHelloCore, coreFields)
    const move = (how: string, evidence: () => Promise<Uint8Array>): Move => ({
      name: `${name}, evidence ${how}`,
      make: async () => ({
        name: `${name}, evidence ${how}`,
        bytes: encodeAs(podHello, { core, evidence: await evidence() }),
        session: null,
      }),
    })
    return [
      ...answers.map(answer => move(`of ${answer.name}`, async () => answer.evidence)),
      ...this.#makers().map(([how, make]) => move(how, () => make(this.#reportData(target, core)))),
    ]
  }

  #reportData(target: Seen, core: Uint8Array): Data {
    const { primitives: p } = this.#world.repeatable
    const th0 = transcript0(p, target.said[0] as Uint8Array, core)
    return purpose => reportData(p, purpose, 'pod', th0)
  }

  /** Evidence that the attacker can have made over report data of his choice. */
  #makers(): Maker[] {
    const { honestChip, brokenChip, genuine, evil, owner, stranger, powers, repeatable } = this.#world
    const made: Maker[] = []
    for (const launchedFor of [owner, stranger]) {
      const host = launchHash(repeatable.primitives, launchedFor.launch)
      const images = [
        [`genuine image on the broken chip`, brokenChip, genuine],
        [`another image on the broken chip`, brokenChip, evil],
        [`another image on the honest chip`, honestChip, evil],
      ] as const
      for (const [how, chip, image] of images) {
        made.push([`${how} for the ${launchedFor.name}`, data => chip.evidence(image, host, data('session'))])
      }
    }
    const host = launchHash(repeatable.primitives, owner.launch)
    const honestId = honestChip.silicon.chipId
    made.push([
      "genuine image on the broken chip under the honest chip's name",
      data => brokenChip.evidence(genuine, host, data('session'), honestId),
    ])
    if (powers.oracle === 'anything') {
      made.push(['of the oracle', data => honestChip.evidence(genuine, host, data('session'))])
    }
    if (powers.oracle === 'another purpose') {
      const other = 'another service' as QuotePurpose // the type knows only the purposes of this product
      made.push(['of the oracle', data => honestChip.evidence(genuine, host, data(other))])
    }
    return made
  }

  /** PodHellos on the wire: of the owner's pods, of the stranger's pod for each hello, of the session that ended. */
  async #allAnswers(clients: readonly Seen[], pods: readonly Seen[]): Promise<Answer[]> {
    const answers: Answer[] = []
    for (const pod of pods) {
      const said = pod.said[1]
      if (said) answers.push(readAnswer(after(pod, 1), said))
    }
    const { strangersPod, endedPod, powers } = this.#world
    for (const hello of this.#heardHellos(clients)) {
      const answer = await this.#answer(`stranger's pod < ${hello.name}`, strangersPod(hello.name), hello.bytes)
      if (answer !== null) answers.push(answer)
    }
    if (powers.endedSessionLeaked) {
      const answer = await this.#answer('the ended session', endedPod, this.#ownHello)
      if (answer !== null) answers.push(answer)
    }
    return answers
  }
  /** What a pod answers whose KEM secret the attacker comes to know. */
  #answer(name: string, pod: Role, hello: Uint8Array): Promise<Answer | null> {
    const known = this.#answers.get(name) ?? this.#ask(name, pod, hello)
    this.#answers.set(name, known)
    return known
  }
  async #ask(name: string, pod: Role, hello: Uint8Array): Promise<Answer | null> {
    const said = (await pod.run([hello]))?.said
    if (!said) return null
    const answer = readAnswer(name, said)
    const secret = this.#world.repeatable.leak(answer.core.kemPublicKey)
    if (secret !== null) this.#holds.set(hex(answer.core.kemPublicKey), secret)
    return answer
  }

  async auths(target: Seen, clients: readonly Seen[]): Promise<Move[]> {
    const sent = readAnswer(target.name, target.said[1] as Uint8Array)
    const moves: Move[] = []
    const signatures: { name: string; signature: Uint8Array | null }[] = [
      { name: "the stranger's signature", signature: null },
      { name: 'no signature', signature: new Uint8Array(64) },
    ]
    for (const client of clients) {
      const heard = client.said[1]
      if (!heard) continue
      const { enc, ct } = decode(auth, heard, AUTH_CAP)
      moves.push(given(`auth of ${after(client, 1)}`, encodeAs(auth, { sid: sent.core.sid, enc, ct })))
      const opened = await this.#open(client)
      if (opened !== null)
        signatures.push({ name: `the signature of ${after(client, 1)}`, signature: opened.signature })
    }
    for (const { name, signature } of signatures) {
      moves.push({ name: `own auth under ${name}`, make: () => this.#ownAuth(target, name, signature) })
    }
    return moves
  }

  async #ownAuth(target: Seen, name: string, signature: Uint8Array | null): Promise<Message> {
    const { repeatable, stranger } = this.#world
    const { primitives: p } = repeatable
    const whole = `own auth under ${name}`
    repeatable.begin(`attacker, ${whole}`)
    const { core, evidence } = decode(podHello, target.said[1] as Uint8Array, POD_HELLO_CAP)
    const { sid, kemPublicKey } = decode(podHelloCore, core, core.length)
    const th1 = transcript1(p, transcript0(p, (target.heard[0] as Message).bytes, core), evidence)
    const { enc, context } = await setupSender(p, kemPublicKey, hpkeInfo(th1))
    const credential = rootCredential()
    const signed = signature ?? p.ed25519Sign(stranger.seed, clientAuthMessage(p, th1, enc, credential))
    const payload = encodeAs(authPayload, { credential, signature: signed, when: { time: NOW, pad: null } })
    const ct = await context.seal(new Uint8Array(), payload)
    const th2 = transcript2(p, th1, enc, ct)
    const secrets = sessionSecrets(p, th2, context.export(utf8(MASTER_LABEL), 32))
    return { name: whole, bytes: encodeAs(auth, { sid, enc, ct }), session: { th2, secrets } }
  }

  async fins(clients: readonly Seen[], pods: readonly Seen[]): Promise<Move[]> {
    const moves: Move[] = [given('zeros', new Uint8Array(32))]
    for (const pod of pods) if (pod.said[2]) moves.push(given(`fin of ${after(pod, 2)}`, pod.said[2]))
    for (const client of clients) {
      const opened = await this.#open(client)
      if (opened !== null) moves.push(given(`own fin for ${after(client, 1)}`, this.#ownFin(opened)))
    }
    return moves
  }
  #ownFin({ th2, secrets }: Session): Uint8Array {
    const { primitives: p } = this.#world.repeatable
    const fin = { idleSeconds: 0, maxSeconds: 0, state: 1, head: null, manifest: 0, lane: null } as const
    return p.seal(p.aeadKey(secrets.fin), FIN_NONCE, th2, encodeAs(podFin, fin))
  }

  async releases(target: Seen, clients: readonly Seen[]): Promise<Move[]> {
    const moves: Move[] = []
    const sessions: { name: string; session: Session }[] = []
    const own = target.heard[1]?.session
    if (own) sessions.push({ name: 'this session', session: own })
    for (const client of clients) {
      if (client.said[2]) moves.push(given(`release of ${after(client, 2)}`, client.said[2]))
      const opened = await this.#open(client)
      if (opened !== null) sessions.push({ name: `the session of ${after(client, 1)}`, session: opened })
    }
    for (const { name, session } of sessions) {
      const whole = `own release in ${name}`
      moves.push({
        name: whole,
        make: async () => {
          this.#world.repeatable.begin(`attacker, ${whole}`)
          const bytes = await sealRelease(this.#world.repeatable, session.secrets.ctl, new Uint8Array(32).fill(0xaa))
          return { name: whole, bytes, session: null }
        },
      })
    }
    return moves
  }

  /** A client's Auth, where the attacker holds the private half of the KEM key that the client was given. */
  #open(client: Seen): Promise<Opened | null> {
    if (!client.said[1]) return Promise.resolve(null)
    const key = after(client, 1)
    const known = this.#opened.get(key) ?? this.#openWith(client, this.#secretFor(client))
    this.#opened.set(key, known)
    return known
  }
  #secretFor(client: Seen): KemSecret | null {
    return this.#holds.get(hex(kemKeyGiven(client))) ?? null
  }
  async #openWith(client: Seen, secret: KemSecret | null): Promise<Opened | null> {
    if (secret === null) return null
    const { primitives: p } = this.#world.repeatable
    const { core, evidence } = decode(podHello, (client.heard[0] as Message).bytes, POD_HELLO_CAP)
    const { enc, ct } = decode(auth, client.said[1] as Uint8Array, AUTH_CAP)
    const th1 = transcript1(p, transcript0(p, client.said[0] as Uint8Array, core), evidence)
    try {
      const context = await setupReceiver(p, secret, enc, hpkeInfo(th1))
      const { signature } = decode(authPayload, await context.open(new Uint8Array(), ct), AUTH_CAP)
      const th2 = transcript2(p, th1, enc, ct)
      return { th2, signature, secrets: sessionSecrets(p, th2, context.export(utf8(MASTER_LABEL), 32)) }
    } catch (error) {
      if (error instanceof Refusal) return null
      throw error
    }
  }

  /** Whether he reads the key that this client released, also with everything long-lived that leaks in the end. */
  async reads(client: Seen, key: Uint8Array): Promise<boolean> {
    if (client.said.some(said => said && hex(said).includes(hex(key)))) return true
    const { repeatable, owner, stranger } = this.#world
    const longLived = [owner.seed, stranger.seed].map(seed => repeatable.primitives.kemKeyPair(seed).secret)
    for (const secret of [...this.#holds.values(), ...longLived]) {
      const opened = await this.#openWith(client, secret)
      if (opened === null) continue
      const read = await openRelease(repeatable, opened.secrets.ctl, client.said[2] as Uint8Array).catch(() => null)
      if (read !== null && hex(read) === hex(key)) return true
    }
    return false
  }
}
