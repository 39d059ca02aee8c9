/** Rows 1 to 8, 10, 14 to 17: somebody shows the owner's client evidence that is not that of its own pod. */
import { join } from 'node:path'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { tcbFloors } from '../../../attestation/policy.ts'
import { encodeTcb } from '../../../attestation/snp/tcb.ts'
import {
  clientHello,
  CLIENT_HELLO_CAP,
  launchHash,
  podHelloCore,
  type QuotePurpose,
  type QuoteRole,
  reportData,
  transcript0,
} from '../../../attestation/session/index.ts'
import type { KemSecret } from '../../../attestation/primitives/primitives.ts'
import { decode, encodeAs } from '../../../attestation/wire.ts'
import { simulatedAttester } from '../../../runtime/attester/simulated.ts'
import type { Fetch } from '../../../client/session/carrier.ts'
import { filled, overheard, p, type Person, type TestPod, urlOf, world } from '../../support/world.ts'
import { serveSilicon } from '../../support/silicon-socket.ts'
import type { TestChip } from '../../support/vendor.ts'
import { Impostor, lure, ownCore, readCore, readPodHello, unlock, withEvidence } from '../impostor.ts'
import { type Attack, each, type Outcome, refusedFor } from '../outcome.ts'

async function hello(pod: TestPod, message: Uint8Array) {
  return readPodHello(await pod.keyholder.hello(message))
}

/** 1: an earlier session of the pod, whose KEM secret has leaked since, answers a new hello. */
export const replayedEvidence: Attack = async () => {
  const { owner, time, pod } = await world()
  const { primitives, secrets } = overheard()
  const earlier = pod({ primitives })
  const recorded: { core: Uint8Array; evidence: Uint8Array }[] = []
  const recorder: Fetch = async (...args) => {
    const response = await earlier.fetch(...args)
    if (urlOf(args[0]).pathname.endsWith('/hello'))
      recorded.push(readPodHello(new Uint8Array(await response.clone().arrayBuffer())))
    return response
  }
  await unlock(owner.secondDevice(), time, recorder)
  const [shown] = recorded
  const impostor = new Impostor(async () => ({
    ...(shown as NonNullable<typeof shown>),
    secret: secrets[0] as KemSecret,
  }))
  return refusedFor('binding', () => lure(owner, time, impostor))
}

/** 2: genuine evidence for this very hello, with the attacker's KEM key in the core. */
export const relayedEvidence: Attack = async () => {
  const { owner, time, pod } = await world()
  const genuine = pod()
  const impostor = new Impostor(async message => {
    const { core, evidence } = await hello(genuine, message)
    const { secret, core: own } = ownCore(owner)
    const { kemPublicKey } = readCore(own)
    return { core: encodeAs(podHelloCore, { ...readCore(core), kemPublicKey }), evidence, secret }
  })
  return refusedFor('binding', () => lure(owner, time, impostor))
}

/** A genuine pod on the approved chip, started for somebody else who knows everything that it knows. */
function pretendedBy(someone: Person, start: (primitives: ReturnType<typeof overheard>['primitives']) => TestPod) {
  const { primitives, secrets } = overheard()
  const theirs = start(primitives)
  const impostor = new Impostor(async message => {
    const shown = await hello(theirs, message)
    return { ...shown, secret: secrets.at(-1) as KemSecret }
  })
  return { impostor, theirs, someone }
}

/** 3: the router sends the client to another owner's pod, of the same image on the same chip. */
export const diversion: Attack = async () => {
  const { owner, stranger, time, pod } = await world()
  const { impostor } = pretendedBy(stranger, primitives => pod({ owner: stranger, primitives }))
  const outcome = await refusedFor('owner-mismatch', () => lure(owner, time, impostor))
  const authSeen = impostor.received.some(path => path.endsWith('/auth'))
  if (authSeen !== (outcome === 'succeeds')) throw new Error(`${outcome}, but Auth was ${authSeen ? '' : 'not '}sent`)
  return outcome
}

/** 4: a chip of the same vendor, whose key somebody has extracted, vouches for whatever he likes. */
export const brokenForeignChip: Attack = async () => {
  const { owner, time, broken, genuine } = await world()
  const launch = { measurement: genuine, hostData: launchHash(p, owner.launch) }
  return refusedFor('platform-new', () =>
    lure(
      owner,
      time,
      withEvidence(owner, data => broken.evidence(launch, data)),
    ),
  )
}

/** The approved host, on a chip of that kind whose reports its owner can forge. */
async function forgedBy(chip: TestChip, owner: Person, genuine: Uint8Array, changes = {}): Promise<Impostor> {
  const pin = await chip.pin()
  owner.trusted = { ...owner.trusted, platforms: [pin], simulatedRoots: [chip.rootSha256] }
  const launch = { measurement: genuine, hostData: launchHash(p, owner.launch) }
  return withEvidence(owner, data => chip.evidence(launch, data, changes))
}

/** 5: a generation whose endorsement keys leak to whoever owns the machine. */
export const withdrawnProduct: Attack = async () => {
  const { owner, time, vendor, genuine } = await world()
  const impostor = await forgedBy(await vendor.chip({ product: 'Milan' }), owner, genuine)
  return refusedFor('product', () => lure(owner, time, impostor))
}

/** 6: the host may debug the guest, or has it migrated to where it likes: either way it reads the guest's memory. */
export const debuggableGuest: Attack = async () => {
  const forms = [
    ['debug', { policy: 0xb0000n }],
    ['migration', { policy: 0x70000n }],
    ['migration', { reportIdMa: filled(32, 1) }],
  ] as const
  return each(
    forms.map(async ([code, launched]) => {
      const { owner, time, pod } = await world()
      const { impostor } = pretendedBy(owner, primitives => pod({ primitives, launched }))
      return refusedFor(code, () => lure(owner, time, impostor))
    }),
  )
}

/** 7: the certificate is for firmware with known holes, the report says that it has newer. */
export const selfReportedTcb: Attack = async () => {
  const { owner, time, vendor, genuine } = await world()
  const good = encodeTcb('Genoa', tcbFloors.Genoa)
  const old = await vendor.chip({ tcb: { ...tcbFloors.Genoa, snp: tcbFloors.Genoa.snp - 1 } })
  const claimed = { currentTcb: good, reportedTcb: good, committedTcb: good, launchTcb: good }
  const impostor = await forgedBy(old, owner, genuine, claimed)
  return refusedFor('tcb', () => lure(owner, time, impostor))
}

/** 8: another image, one bit from the genuine one, on the approved chip: it tells its maker everything. */
export const modifiedImage: Attack = async () => {
  const bits = [0, 5, 191, 383]
  return each(
    bits.map(async bit => {
      const { owner, time, genuine, pod } = await world()
      const measurement = genuine.slice()
      measurement[bit >> 3] = (measurement[bit >> 3] as number) ^ (1 << (bit & 7))
      const { impostor } = pretendedBy(owner, primitives => pod({ primitives, measurement }))
      return refusedFor('measurement', () => lure(owner, time, impostor))
    }),
  )
}

/** 10: the host starts the genuine image with a stranger's launch config and says that it is this owner's pod. */
export const strangersLaunchConfig: Attack = async () => {
  const { owner, stranger, time, pod } = await world()
  const { impostor, theirs } = pretendedBy(stranger, primitives => pod({ owner: stranger, primitives }))
  const outcome = await refusedFor('owner-mismatch', () => lure(owner, time, impostor))
  if (outcome === 'refused' && (theirs.keyholder.held.keys > 0 || impostor.opened !== null)) {
    throw new Error('refused, but the pod holds something of the owner')
  }
  return outcome
}

/** 14: the router strikes the better suite from the list that the client offers. */
export const suiteDowngrade: Attack = async () => {
  const { owner, time, pod } = await world()
  const genuine = pod()
  let altered = false
  const router: Fetch = async (input, init) => {
    if (!urlOf(input).pathname.endsWith('/hello')) return genuine.fetch(input, init)
    const sent = decode(clientHello, init?.body as Uint8Array, CLIENT_HELLO_CAP)
    const body = encodeAs(clientHello, { ...sent, suites: [...sent.suites, 7] }) as Uint8Array<ArrayBuffer>
    altered = true
    return genuine.fetch(input, { ...init, body })
  }
  return refusedFor('binding', async () => {
    await unlock(owner, time, router)
    return altered
  })
}

/** Evidence of the genuine pod over the attacker's core, quoted for another purpose or as another end. */
const quotedAs =
  (purpose: string, role: string): Attack =>
  async () => {
    const { owner, time, pod } = await world()
    const genuine = pod()
    const impostor = withEvidence(owner, (_, message, core) =>
      genuine.quote(reportData(p, purpose as QuotePurpose, role as QuoteRole, transcript0(p, message, core))),
    )
    return refusedFor('binding', () => lure(owner, time, impostor))
  }

/** 15: a pod that attests itself as a client of another, reflected back as if it were the other. */
export const reflection: Attack = quotedAs('session', 'peer-i')

/** The pod's attester over a security processor that signs what it is given. */
async function withAttester<T>(
  pod: TestPod,
  use: (attester: ReturnType<typeof simulatedAttester>) => Promise<T>,
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'attacks-'))
  const socket = join(folder, 'silicon.sock')
  const close = await serveSilicon(socket, data => pod.quote(data))
  try {
    return await use(simulatedAttester(p, socket))
  } finally {
    close()
    rmSync(folder, { recursive: true })
  }
}

type Untyped = (purpose: unknown, transcript: Uint8Array) => Promise<Uint8Array>

/** A service inside the pod asks the attester; what it gets is spliced into a session of the attacker's. */
async function quotedBy(ask: (attest: Untyped, data: Uint8Array, th0: Uint8Array) => Promise<Uint8Array>) {
  const { owner, time, pod } = await world()
  const genuine = pod()
  return withAttester(genuine, attester => {
    const attest = attester.evidence.bind(attester) as Untyped
    const impostor = withEvidence(owner, async (data, message, core) =>
      // A service that gets nothing shows some other evidence; the client refuses that for what it is.
      ask(async (...args) => attest(...args), data, transcript0(p, message, core)).catch(error => {
        if (!(error instanceof RangeError)) throw error
        return genuine.quote(filled(64, 0))
      }),
    )
    return refusedFor('binding', () => lure(owner, time, impostor))
  })
}

/** 16: another service of the pod has a quote made for its own protocol, over a transcript of the attacker's choice. */
export const crossProtocolQuote: Attack = (): Promise<Outcome> => quotedBy((attest, _, th0) => attest('tls', th0))

/** 17: a service asks for a quote over 64 raw bytes. */
export const rawQuote: Attack = (): Promise<Outcome> => quotedBy((attest, data) => attest('session', data))
