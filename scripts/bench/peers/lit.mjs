// @lit-protocol/sev-snp-utils-sdk: Rust in WebAssembly; VCEK reports of Milan. It takes neither a time nor a policy.
import { initWasmSevSnpUtilsSdk, verify_attestation_report } from '@lit-protocol/sev-snp-utils-sdk'

export async function load() {
  await initWasmSevSnpUtilsSdk()
}

export function prepare({ report, vek }) {
  const text = btoa(String.fromCharCode(...report))
  return async () => {
    await verify_attestation_report(text, vek)
  }
}
