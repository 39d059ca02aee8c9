/**
 * A platform of our own that signs TDX quotes: certificates, collateral and quotes in Intel's real formats, under a root
 * that exists in one installation only and is accepted only by a policy that names it.
 */
import { encodeTdxCollateral } from '../tdx/collateral.ts'
import { platformPin } from '../tdx/rules.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import { array, bytes, decode, encodeAs, struct } from '../wire.ts'
import {
  goodEnclave,
  goodPlatform,
  goodQeIdentity,
  goodTcbInfo,
  goodTd,
  type IntelKeys,
  intelRequests,
  issueIntel,
  issueIntelList,
  mintIntelKeys,
  rawPoint,
  signDocument,
  signQuote,
  type TdFields,
} from './intel.ts'
import { exportPrivate, type KeyPair, validityOf } from './vendor.ts'

/** What the platform saw at launch; RTMR0 and RTMR3 are zero. */
export type LaunchedTd = Pick<TdFields, 'mrTd' | 'rtmr1' | 'rtmr2' | 'mrConfigId'>

export interface TdSilicon {
  /** SHA-256 of the root certificate: what `acceptSimulatedEvidence` names. */
  readonly rootSha256: Uint8Array
  readonly pin: Uint8Array
  /** Keys and certificates, for {@link loadTdSilicon}. They are private: keep them in a file of mode 0600. */
  save(): Promise<Uint8Array>
  /** A signed version-5 quote and the collateral that belongs to it. */
  quote(launched: LaunchedTd, reportData: Uint8Array): Promise<{ quote: Uint8Array; collateral: Uint8Array }>
}

const keyNames = ['root', 'authority', 'pck', 'signer', 'attestation'] as const
const certificateNames = ['root', 'authority', 'pck', 'signer'] as const
const DAY = 86400
const P256 = { name: 'ECDSA', namedCurve: 'P-256' } as const

const stateShape = struct(['pas1-td-silicon', 1], {
  /** In the order of {@link keyNames}, PKCS#8. */
  keys: array(bytes({ max: 1024 }), { min: keyNames.length, max: keyNames.length }),
  /** In the order of {@link certificateNames}, DER. */
  certificates: array(bytes({ max: 4096 }), { min: certificateNames.length, max: certificateNames.length }),
  /** Of the platform, for its pin. */
  instanceId: bytes(16),
})
type State = Parameters<typeof stateShape.wire>[0]
const STATE_CAP = 64 * 1024

async function pairOf(pkcs8: Uint8Array): Promise<KeyPair> {
  const encoded = pkcs8 as Uint8Array<ArrayBuffer>
  const privateKey = await crypto.subtle.importKey('pkcs8', encoded, P256, true, ['sign'])
  const { kty, crv, x, y } = await crypto.subtle.exportKey('jwk', privateKey)
  const point = { kty: kty as string, crv: crv as string, x: x as string, y: y as string }
  return { privateKey, publicKey: await crypto.subtle.importKey('jwk', point, P256, true, ['verify']) }
}

const platformOf = (instanceId: Uint8Array) => ({ ...goodPlatform, instanceId })

/** Mints a vendor and one platform. `now` in seconds. */
export async function mintTdSilicon(p: VerifierPrimitives, now: number): Promise<TdSilicon> {
  const keys = await mintIntelKeys()
  const instanceId = crypto.getRandomValues(new Uint8Array(16))
  const asked = intelRequests(keys, platformOf(instanceId), validityOf.vcek(now))
  const certificates = await Promise.all(certificateNames.map(name => issueIntel(asked[name])))
  const saved = await Promise.all(keyNames.map(name => exportPrivate(keys[name].privateKey)))
  return tdSilicon(p, { keys: saved, certificates, instanceId }, now)
}

/** The silicon that was saved, with lists and documents fresh at `now`. */
export const loadTdSilicon = async (p: VerifierPrimitives, state: Uint8Array, now: number): Promise<TdSilicon> =>
  tdSilicon(p, decode(stateShape, state, STATE_CAP), now)

async function collateralOf(keys: IntelKeys, signer: Uint8Array, instanceId: Uint8Array, now: number) {
  const asked = intelRequests(keys, platformOf(instanceId), validityOf.vcek(now))
  const window = { issued: now - DAY, ends: now + 20 * DAY }
  const { teeTcbSvn } = goodTd({ mrTd: empty, rtmr1: empty, rtmr2: empty, mrConfigId: empty }, new Uint8Array(64))
  const info = goodTcbInfo(goodPlatform, teeTcbSvn, window)
  return encodeTdxCollateral({
    rootCrl: await issueIntelList(asked.root.issuer, validityOf.list(now)),
    pckCrl: await issueIntelList(asked.pck.issuer, validityOf.list(now)),
    tcbInfo: await signDocument(keys.signer.privateKey, 'tcbInfo', info),
    tcbInfoSigner: signer,
    qeIdentity: await signDocument(keys.signer.privateKey, 'enclaveIdentity', goodQeIdentity(window)),
    qeIdentitySigner: signer,
  })
}
const empty = new Uint8Array(48)

async function tdSilicon(p: VerifierPrimitives, state: State, now: number): Promise<TdSilicon> {
  const pairs = await Promise.all(state.keys.map(key => pairOf(key)))
  const keys = Object.fromEntries(keyNames.map((name, i) => [name, pairs[i]])) as IntelKeys
  const [root, authority, pck, signer] = state.certificates as [Uint8Array, Uint8Array, Uint8Array, Uint8Array]
  const collateral = await collateralOf(keys, signer, state.instanceId, now)
  const qeAuthData = new Uint8Array(32).fill(0x1f)
  const qe = await goodEnclave(await rawPoint(keys.attestation), qeAuthData)
  return {
    rootSha256: p.sha256(root),
    pin: platformPin(p, platformOf(state.instanceId)) as Uint8Array,
    save: async () => encodeAs(stateShape, state),
    async quote(launched, reportData) {
      const td = { ...goodTd(launched, reportData), rtmr0: empty, rtmr3: empty }
      const chain = [pck, authority, root]
      return { quote: await signQuote(keys, { version: 5, bodyType: 3, td, qe, qeAuthData, chain }), collateral }
    },
  }
}
