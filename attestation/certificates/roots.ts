/** Roots of trust, by the SHA-256 of their DER bytes. EVIDENCE sections 1 and 3; AMD KDS, `/vcek/v1/{line}/cert_chain`. */
import { fromHex } from '../bytes.ts'

const pin = (text: string): Uint8Array => fromHex(text) as Uint8Array

/** AMD's root keys: Milan, Genoa (also Siena and Bergamo), Turin. */
export const amdRoots: readonly Uint8Array[] = [
  pin('69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd'),
  pin('4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1'),
  pin('1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a'),
]

/** Intel SGX Root CA, which signs for TDX too: Intel PCS, `IntelSGXRootCA.cer`. */
export const intelRoots: readonly Uint8Array[] = [
  pin('44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3'),
]
