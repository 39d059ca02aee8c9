// Azure's way from the NV index to the verdict: a report of our own silicon's, made over the claims of an emulated TPM,
// left where the paravisor leaves it; judged by the azure preset, which names this silicon's root and nothing else more.
import crypto, { createPublicKey } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import { appraise, AppraisedPod, noCollateral } from '../../../attestation/appraise.ts'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import { Unavailable, Unsupported } from '../../../attestation/errors.ts'
import { decodeEventLog } from '../../../attestation/event-log/log.ts'
import { extender, replayPcrs } from '../../../attestation/event-log/replay.ts'
import { decodeEvidence } from '../../../attestation/evidence.ts'
import type { Policy, VtpmRules } from '../../../attestation/policy.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { reportData } from '../../../attestation/session/transcript.ts'
import { mintSilicon } from '../../../attestation/silicon/silicon.ts'
import { decodeCertificateTable } from '../../../attestation/snp/certificate-table.ts'
import { preset } from '../../../client/cli/policies.ts'
import { quotedRegisters } from '../../../runtime/attester/machine.ts'
import { azureAttester, azureHandles, isAzure } from '../../../runtime/attester/vtpm.ts'
import { eventLog, logged, u32 } from '../../support/event-log.ts'
import { hclReport, reportDataOf } from '../../support/hcl.ts'
import { startSwtpm, type Swtpm } from '../../support/emulated-tpm.ts'

const p = nodePrimitives(crypto)
const now = Math.floor(Date.now() / 1000)
const silicon = await mintSilicon(now)
const th0 = p.random(32)
const nonce = reportData(p, 'session', 'pod', th0)
const launch = p.random(32)

const secureBoot = concat(
  new Uint8Array(Buffer.from('61dfe48bca93d211aa0d00e098032b8c', 'hex')),
  ...[10, 0, 1, 0].map(u32),
  new Uint8Array(Buffer.from('SecureBoot', 'utf16le')),
  Uint8Array.of(1),
)
const boot = [
  logged(p, { register: 0, type: 8, data: utf8('firmware') }, utf8('firmware')),
  logged(p, { register: 7, type: 0x80000001, data: secureBoot }, secureBoot),
  logged(p, { register: 9, type: 0x0d, data: utf8('initrd') }, utf8('the initrd')),
]

/** An attestation key in the TPM, where Azure keeps it, and its public half as a JSON Web Key. */
function makeKey({ tool, file }: Swtpm, handle = '0x81000003'): Record<string, unknown> {
  const attributes = 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign|noda'
  tool('createprimary', '-C', 'e', '-G', 'rsa2048:rsassa-sha256:null', '-a', attributes, '-c', 'ak')
  tool('evictcontrol', '-C', 'o', '-c', 'ak', handle)
  tool('flushcontext', '-t')
  tool('readpublic', '-c', handle, '-f', 'pem', '-o', 'ak.pem')
  return createPublicKey(Buffer.from(file('ak.pem'))).export({ format: 'jwk' }) as Record<string, unknown>
}

/** As the paravisor writes them, without the endorsement key: an emulated TPM's indices end at 2048 bytes. */
const claimsOf = (key: Readonly<Record<string, unknown>>) =>
  utf8(
    JSON.stringify({
      keys: [{ kid: 'HCLAkPub', key_ops: ['sign'], ...key }],
      'vm-configuration': { 'console-enabled': true, 'secure-boot': true, vmUniqueId: 'a-vm' },
      'user-data': '00'.repeat(64),
    }),
  )

function leave({ tool, write }: Swtpm, content: Uint8Array): void {
  tool('nvdefine', '0x1400001', '-C', 'o', '-s', '2048', '-a', 'ownerread|ownerwrite')
  for (let at = 0; at < content.length; at += 512) {
    write('piece', content.subarray(at, at + 512))
    tool('nvwrite', '0x1400001', '-C', 'o', '-i', 'piece', '--offset', String(at))
  }
  // The rest of a real index reads as zeros.
  write('rest', new Uint8Array(2048 - content.length))
  tool('nvwrite', '0x1400001', '-C', 'o', '-i', 'rest', '--offset', String(content.length))
}

type Change = Readonly<{ hcl?: (report: Uint8Array, claims: Uint8Array) => Uint8Array; log?: Uint8Array | null }>

/** An emulated TPM that has been through a boot, with a paravisor's report in it. */
async function machine(t: ExecutionContext, { hcl, log = eventLog(boot) }: Change = {}) {
  const swtpm = await startSwtpm(t)
  for (const { register, sha256 } of boot) {
    swtpm.tool('pcrextend', `${register}:sha256=${Buffer.from(sha256).toString('hex')}`)
  }
  const claims = claimsOf(makeKey(swtpm))
  const measured = { measurement: new Uint8Array(48).fill(3), hostData: new Uint8Array(32) }
  const { report, certs } = await silicon.report(measured, reportDataOf(p, claims))
  leave(swtpm, hcl?.(report, claims) ?? hclReport(p, { claims, hardwareReport: report }))
  const source = { transport: swtpm.transport(), selection: quotedRegisters.azure, log: async () => log, launch }
  return { swtpm, certs, source, attester: azureAttester(p, source) }
}

/** The preset, with this installation's root in the place of AMD's. */
const azure: Policy = {
  ...preset('azure'),
  acceptSimulatedEvidence: { rootSha256: [silicon.rootSha256], reason: 'this installation’s own silicon' },
}
const vtpm = azure.vtpm as VtpmRules

/** The certificates come from the provider's service, which a client asks. */
const judge = (evidence: Uint8Array, certs: Uint8Array, policy = azure) => {
  const { vcek, ask, ark, crl } = tableOf(certs)
  return appraise(evidence, { policy, nonce, now, collateral: { ...noCollateral, vek: vcek, ask, ark, crl } })
}
const tableOf = (certs: Uint8Array) => {
  const { vcek = null, ask = null, ark = null, crl = null } = decodeCertificateTable(certs)
  return { vcek, ask, ark, crl }
}

test('a session’s evidence out of an emulated TPM is accepted under the azure preset, and under it alone', async t => {
  const { attester, certs } = await machine(t)
  t.is(attester.platform, 'azure')
  const evidence = await attester.evidence('session', th0)
  t.deepEqual(
    decodeEvidence(evidence).map(([kind]) => kind),
    ['hcl', 'tpm-quote', 'tcg-log'],
  )
  const found = await judge(evidence, certs)
  if (!found.accepted) return t.fail(`${found.step}: ${found.detail}`)
  const { vtpm: claims, platform } = AppraisedPod.claims(found.pod)
  t.is(platform, 'simulated-snp')
  t.deepEqual(claims?.pcrs, new Map([...replayed()].filter(([pcr]) => vtpm.selection.pcrs.includes(pcr))))

  const refusedBy = async (policy: Policy) => {
    const refused = await judge(evidence, certs, policy)
    return refused.accepted ? 'accepted' : refused.code
  }
  t.is(await refusedBy({ ...azure, acceptSimulatedEvidence: false }), 'root-untrusted')
  t.is(await refusedBy({ ...preset('bare-metal'), acceptSimulatedEvidence: azure.acceptSimulatedEvidence }), 'product')
  const later = await attester.evidence('session', p.random(32))
  const stale = await judge(later, certs)
  t.is(stale.accepted ? 'accepted' : stale.code, 'binding')
  return undefined
})

const replayed = () => replayPcrs(decodeEventLog(eventLog(boot)), extender(p, 'SHA-256'))

test('a register that was extended after the log shows at the client', async t => {
  const { attester, certs, swtpm } = await machine(t)
  swtpm.tool('pcrextend', `8:sha256=${'ee'.repeat(32)}`)
  const found = await judge(await attester.evidence('session', th0), certs)
  t.is(found.accepted ? 'accepted' : found.code, 'event-log')
})

test('another key at the handle than the report names is not quoted with', async t => {
  const { attester, swtpm, source } = await machine(t)
  swtpm.tool('evictcontrol', '-C', 'o', '-c', '0x81000003')
  await t.throwsAsync(attester.evidence('session', th0), { instanceOf: Unavailable, message: /no attestation key at/ })
  swtpm.tool(
    'createprimary',
    '-C',
    'o',
    '-G',
    'rsa2048:rsassa-sha256:null',
    '-c',
    'other',
    '-a',
    'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign|noda',
  )
  swtpm.tool('evictcontrol', '-C', 'o', '-c', 'other', '0x81000003')
  await t.throwsAsync(attester.evidence('session', th0), { instanceOf: Unavailable, message: /not the one that/ })
  t.true(await isAzure(source.transport))
  swtpm.tool('nvundefine', '0x1400001', '-C', 'o')
  t.false(await isAzure(source.transport))
  await t.throwsAsync(attester.evidence('session', th0), { instanceOf: Unavailable, message: /report is gone/ })
})

test('a report that is none, or a TD’s, is said to be so', async t => {
  const garbage = await machine(t, { hcl: () => new Uint8Array(1500).fill(7) })
  await t.throwsAsync(garbage.attester.evidence('session', th0), { instanceOf: Unavailable, message: /HCL header/ })
  const td = await machine(t, { hcl: (_, claims) => hclReport(p, { claims, reportType: 4 }) })
  await t.throwsAsync(td.attester.evidence('session', th0), { instanceOf: Unsupported, message: /over their network/ })
})

test('a machine without a boot log sends none, and is refused for it; one with a broken log says so', async t => {
  const { attester, certs } = await machine(t, { log: null })
  const found = await judge(await attester.evidence('session', th0), certs)
  t.is(found.accepted ? 'accepted' : found.code, 'evidence-missing')
  const broken = await machine(t, { log: eventLog(boot).subarray(0, -1) })
  await t.throwsAsync(broken.attester.evidence('session', th0), { instanceOf: Unavailable, message: /does not read/ })
})

test('nothing of ours stays in the TPM', async t => {
  const { attester, swtpm } = await machine(t)
  await attester.evidence('session', th0)
  t.is(swtpm.tool('getcap', 'handles-transient').trim(), '')
  t.deepEqual(swtpm.tool('getcap', 'handles-persistent').trim(), `- 0x${azureHandles.key.toString(16)}`)
})
