/** The rows of PROTOCOL section 8's table: one rule of the protocol taken out at a time, and what falls with it. */
import type { Edit } from '../../tests/support/altered.ts'
import type { Powers } from './attacker.ts'
import type { Property } from './search.ts'

export type Variant = Readonly<{
  name: string
  edits: readonly Edit[]
  powers: Powers
  /** The columns marked as broken. */
  breaks: readonly Property[]
}>

const honest: Powers = { endedSessionLeaked: false, oracle: 'none' }
const leaked: Powers = { ...honest, endedSessionLeaked: true }

const transcript = 'attestation/session/transcript.ts'
const client = 'attestation/session/client.ts'
const pod = 'attestation/session/pod.ts'
const rules = 'attestation/rules.ts'

const withoutNonce: Edit = {
  file: transcript,
  find: "hash(p, 'pas1 th0', hello, core)",
  replace: "hash(p, 'pas1 th0', core)",
}
/** In the core's encoding 65 bytes stand before the key's 1216. */
const withoutKemKey: Edit = {
  file: transcript,
  find: "hash(p, 'pas1 th0', hello, core)",
  replace: "hash(p, 'pas1 th0', hello, core.filter((_, i) => i < 65 || i >= 65 + 1216))",
}
const withoutPin: Edit = {
  file: rules,
  find: 'if (!approved.some(known => equal(known, pin)))',
  replace: 'if (false)',
}
const withoutMeasurement: Edit = {
  file: rules,
  find: 'tee === platform && measurements.some(known => equal(known, measurement))',
  replace: 'tee === platform',
}
const withoutHostData: Edit = {
  file: rules,
  find: 'if (!equal(launched, launchHash))',
  replace: 'if (false)',
}
const withoutHelloOwner: Edit = {
  file: client,
  find: '  checkOwner(p, received, given.launch)\n',
  replace: '',
}
const withoutOwnerSignature: Edit = {
  file: pod,
  find: 'if (!(await signatureValid(p, principal.key, message, payload.signature)))',
  replace: 'if (false)',
}
const withoutFin: Edit = {
  file: client,
  find: 'const opened = await p.open(p.aeadKey(fin), FIN_NONCE, sent.th2, bytes)',
  replace:
    'const opened = encodeAs(podFin, { idleSeconds: 0, maxSeconds: 0, state: 1, head: null, manifest: 0, lane: null })',
}

/** The signature covers one nonce instead of the transcript; both ends are told which, in the place of th1. */
const signingOnly = (whose: 'the client' | 'the pod'): Edit[] => {
  const nonce = (hello: string, core: string) =>
    whose === 'the client' ? `decode(clientHello, ${hello}, 4096).nonce` : `decode(podHelloCore, ${core}, 4096).nonce`
  return [
    { file: transcript, find: 'th1, p.sha256(enc), p.sha256(credential)]', replace: 'th1]' },
    {
      file: client,
      find: "state: 'received',\n    core,",
      replace: `state: 'received', core, signed: ${nonce('sent.hello', 'received.core')},`,
    },
    { file: client, find: 'clientAuthMessage(p, received.th1,', replace: 'clientAuthMessage(p, received.signed,' },
    {
      file: pod,
      find: "state: 'awaiting-auth',\n    sid",
      replace: `state: 'awaiting-auth', signed: ${nonce('answered.hello', 'answered.core')}, sid`,
    },
    {
      file: pod,
      find: 'checkClientSignature(p, principal, awaiting.th1,',
      replace: 'checkClientSignature(p, principal, awaiting.signed,',
    },
  ]
}

const wholePod: readonly Property[] = ['secrecy', 'pod authentication', 'relay']

export const variants: readonly Variant[] = [
  { name: 'as shipped', edits: [], powers: honest, breaks: [] },
  { name: 'as shipped, ended session leaked', edits: [], powers: leaked, breaks: [] },
  {
    name: 'client nonce not quoted, ended session leaked',
    edits: [withoutNonce],
    powers: leaked,
    breaks: ['secrecy', 'pod authentication'],
  },
  { name: 'client nonce not quoted', edits: [withoutNonce], powers: honest, breaks: [] },
  { name: 'KEM key not quoted', edits: [withoutKemKey], powers: honest, breaks: wholePod },
  { name: 'no platform pin', edits: [withoutPin], powers: honest, breaks: wholePod },
  { name: 'no measurement check', edits: [withoutMeasurement], powers: honest, breaks: wholePod },
  { name: 'only the hello names the owner', edits: [withoutHostData], powers: honest, breaks: [] },
  { name: 'only the evidence names the owner', edits: [withoutHelloOwner], powers: honest, breaks: [] },
  { name: 'nothing names the owner', edits: [withoutHostData, withoutHelloOwner], powers: honest, breaks: wholePod },
  {
    name: 'pod skips the owner signature',
    edits: [withoutOwnerSignature],
    powers: honest,
    breaks: ['owner authentication'],
  },
  {
    name: 'owner signs the client nonce only',
    edits: signingOnly('the client'),
    powers: honest,
    breaks: ['owner authentication'],
  },
  {
    name: 'owner signs the pod nonce only',
    edits: signingOnly('the pod'),
    powers: honest,
    breaks: ['owner authentication'],
  },
  { name: 'client skips PodFin', edits: [withoutFin], powers: honest, breaks: ['pod authentication'] },
  {
    name: 'another service may quote for another purpose',
    edits: [],
    powers: { ...honest, oracle: 'another purpose' },
    breaks: [],
  },
  {
    name: 'another service may quote anything',
    edits: [],
    powers: { ...honest, oracle: 'anything' },
    breaks: wholePod,
  },
]
