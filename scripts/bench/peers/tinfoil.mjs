// @tinfoilsh/verifier: WebCrypto; VCEK reports of Genoa, judged by the clock of the machine. Called below its public
// entry, which unpacks gzip first and then demands what only its maker's own machines have (memory encryption of the host).
import { CertificateChain } from './node_modules/@tinfoilsh/verifier/dist/sev/cert-chain.js'
import { Report } from './node_modules/@tinfoilsh/verifier/dist/sev/report.js'
import { defaultValidationOptions, validateReport } from './node_modules/@tinfoilsh/verifier/dist/sev/validation.js'
import { verifyAttestation } from './node_modules/@tinfoilsh/verifier/dist/sev/verify.js'

const options = { ...defaultValidationOptions, platformInfo: undefined }

export async function load() {}

export function prepare({ report, vek }) {
  return async () => {
    const parsed = new Report(report)
    const chain = await CertificateChain.fromReport(parsed, vek)
    await verifyAttestation(chain, parsed)
    validateReport(parsed, chain, options)
  }
}
