/**
 * What both ends hash and derive (PROTOCOL 2.0, 2.2): the hash and the KDF, the shapes of the handshake's
 * messages, and the transcript values made of them. Whoever computes these alike agrees on the session.
 */
import { Malformed } from '../errors.ts'
import { EVIDENCE_CAP } from '../evidence.ts'
import type { MacKey, Primitives } from '../primitives/primitives.ts'
import { array, bytes, encode, nullable, type Of, reserved, type Shape, struct, uint, type Wire } from '../wire.ts'

/** X-Wing, HKDF-SHA-256, AES-256-GCM: the only suite of this version (decision D3). */
export const SUITE = 1
/** A handshake older than this is over, for either end, on its own monotonic clock. */
export const HANDSHAKE_MAX_SECONDS = 60

export const CLIENT_HELLO_CAP = 4 * 1024
const CORE_CAP = 4 * 1024
export const POD_HELLO_CAP = EVIDENCE_CAP + CORE_CAP + 16
export const AUTH_CAP = 8 * 1024
export const POD_FIN_CAP = 1024
export const CREDENTIAL_CAP = 4 * 1024
/** A head as clients keep it: `attestation/log` says what is in it. */
export const HEAD_CAP = 512

/** `H(label, p1, ...) = SHA-256(CBOR([label, p1, ...]))`: injective, domain-separated. */
export const hash = (p: Primitives, label: string, ...parts: readonly Wire[]): Uint8Array =>
  p.sha256(encode([label, ...parts]))

/** `KDF(key, label, context, length) = HKDF-Expand-SHA256(key, CBOR([label, context...]), length)`. */
export const kdf = (p: Primitives, key: MacKey, label: string, context: readonly Wire[], length = 32): Uint8Array =>
  p.hkdfExpand(key, encode([label, ...context]), length)

export const clientHello = struct(['pas1-ch', 1], {
  suites: array(uint(0xffff), { min: 1, max: 16 }),
  nonce: bytes(32),
  rid: bytes(20),
  cb: reserved,
  lane: reserved,
})
export type ClientHello = Of<typeof clientHello>

export const podHelloCore = struct(['pas1-ph', 1], {
  suite: uint(0xffff),
  nonce: bytes(32),
  sid: bytes(16),
  /** The length is the suite's business. */
  kemPublicKey: bytes({ max: 2048 }),
  launch: bytes(32),
  bootId: bytes(16),
})
export type PodHelloCore = Of<typeof podHelloCore>

/** Both parts are kept as the bytes that arrived; the transcript covers those. */
export const podHello = struct([], { core: bytes({ max: CORE_CAP }), evidence: bytes({ max: EVIDENCE_CAP }) })

export const auth = struct(['pas1-au'], { sid: bytes(16), enc: bytes({ max: 2048 }), ct: bytes({ max: AUTH_CAP }) })
export type Auth = Of<typeof auth>

export const authPayload = struct(['pas1-ca', 1], {
  credential: bytes({ max: CREDENTIAL_CAP }),
  signature: bytes({ max: 2048 }),
  /** The client's time in seconds (2.6), and padding that hides the payload's length. */
  when: nullable(struct([], { time: uint(), pad: nullable(bytes({ max: 1024 })) })),
})

/** Phases of a pod as a client sees them (2.9). */
export const podState = { locked: 1, opening: 2, unlocked: 3, suspect: 4 } as const
export type PodState = (typeof podState)[keyof typeof podState]
export const podStateShape: Shape<PodState> = {
  read: input => {
    const value = uint(4).read(input)
    if (value === 0) throw new Malformed('expected a state from 1 to 4, got 0')
    return value as PodState
  },
  wire: value => value,
}

export const podFin = struct(['pas1-fin', 1], {
  idleSeconds: uint(),
  maxSeconds: uint(),
  state: podStateShape,
  /** Null while locked. */
  head: nullable(bytes({ max: HEAD_CAP })),
  manifest: uint(),
  lane: reserved,
})
export type PodFin = Of<typeof podFin>

/** What a quote is for, and which end it speaks of: a quote for one purpose or role is none for another (rows 15, 16). */
export type QuotePurpose = 'session'
export type QuoteRole = 'pod'

/** `rid`: which pod a router should find, from the 32 raw bytes of the owner's key. */
export const routingId = (p: Primitives, ownerPublicKey: Uint8Array): Uint8Array =>
  p.sha256(encode(['pas1 rid', ownerPublicKey])).slice(0, 20)

/** Covers both hellos, the session's KEM key among them (decision D2). */
export const transcript0 = (p: Primitives, hello: Uint8Array, core: Uint8Array): Uint8Array =>
  hash(p, 'pas1 th0', hello, core)

/** The 64 bytes that stand in REPORT_DATA / REPORTDATA. */
export const reportData = (p: Primitives, purpose: QuotePurpose, role: QuoteRole, th0: Uint8Array): Uint8Array =>
  p.sha512(encode(['pas1 report-data', purpose, role, th0]))

/** Where a paravisor owns the report data: what its vTPM's quote carries instead. */
export const tpmQualifyingData = (p: Primitives, expectedReportData: Uint8Array): Uint8Array =>
  hash(p, 'pas1 tpm', expectedReportData)

/** Covers the evidence as it arrived. */
export const transcript1 = (p: Primitives, th0: Uint8Array, evidenceBytes: Uint8Array): Uint8Array =>
  hash(p, 'pas1 th1', th0, p.sha256(evidenceBytes))

export const hpkeInfo = (th1: Uint8Array): Uint8Array => encode(['pas1 hpke', th1])

/** What the client's key signs: this handshake, this encapsulation, this credential. A bare nonce is not enough (row 12). */
export const clientAuthMessage = (
  p: Primitives,
  th1: Uint8Array,
  enc: Uint8Array,
  credential: Uint8Array,
): Uint8Array => encode(['pas1 client-auth', th1, p.sha256(enc), p.sha256(credential)])

export const transcript2 = (p: Primitives, th1: Uint8Array, enc: Uint8Array, ct: Uint8Array): Uint8Array =>
  hash(p, 'pas1 th2', th1, p.sha256(enc), p.sha256(ct))

/** The two directions of one kind of stream, 32 bytes each. Raw, because a keyholder hands them over (2.6). */
export type StreamSecrets = Readonly<{ c2s: Uint8Array; s2c: Uint8Array }>
export type SessionSecrets = Readonly<{ app: StreamSecrets; ctl: StreamSecrets; fin: Uint8Array }>

/** The five keys of a session. `exported` is the HPKE export; it is wiped here, and so is the master made of it. */
export function sessionSecrets(p: Primitives, th2: Uint8Array, exported: Uint8Array): SessionSecrets {
  const master = p.hkdfExtract(th2, exported)
  const key = p.macKey(master)
  exported.fill(0)
  master.fill(0)
  const derive = (label: string) => kdf(p, key, label, [null])
  return {
    app: { c2s: derive('pas1 c2s'), s2c: derive('pas1 s2c') },
    ctl: { c2s: derive('pas1 ctl c2s'), s2c: derive('pas1 ctl s2c') },
    fin: derive('pas1 fin'),
  }
}

/** PodFin is sealed once under its own key, so its nonce is fixed. */
export const FIN_NONCE: Uint8Array = new Uint8Array(12)
export const MASTER_LABEL = 'pas1 master'
