// Every real case that the verifier speaks has the expected verdict; and the runner does not let failures pass.
import 'reflect-metadata'
import { createPublicKey } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { spawnSync } from 'node:child_process'
import { X509CertificateGenerator } from '@peculiar/x509'
import test from 'ava'
import { vectorsIn } from '../../scripts/conformance/folder.ts'
import { type Case, Mismatch, seconds, type Vectors } from '../../scripts/conformance/manifest.ts'
import type { Outcome } from '../../scripts/conformance/report.ts'
import { run } from '../../scripts/conformance/run.ts'
import { policyOf } from '../../scripts/conformance/tdx.ts'
import { vectorsDir, vectorTest } from '../support/vectors.ts'

async function outcomes(vectors: Vectors): Promise<Outcome[]> {
  const found: Outcome[] = []
  for await (const outcome of run(vectors)) found.push(outcome)
  return found
}

vectorTest(
  'every real case has the expected verdict',
  async t => {
    const found = await outcomes(vectorsIn(vectorsDir('vectors') as string))
    const failed = found.filter(({ outcome }) => outcome === 'failed').map(({ id, detail }) => `${id}: ${detail}`)
    t.deepEqual(failed, [])
    const skipped = found.filter(({ outcome }) => outcome === 'skipped')
    t.true(skipped.every(({ kind }) => kind === 'sgx-quote'))
    t.true(found.length - skipped.length >= 56)
  },
  ['vectors'],
)

type ManifestCase = Readonly<Record<string, unknown>>
/** A set of one file and the given cases, for the runner itself. */
async function ofCases(cases: readonly ManifestCase[], others: ManifestCase = {}): Promise<Outcome[]> {
  const dir = mkdtempSync(join(tmpdir(), 'attested-pod-conformance-'))
  try {
    // A log of the old form: one event, a separator for PCR 4.
    const log = Buffer.concat([
      Buffer.from([4, 0, 0, 0, 4, 0, 0, 0]),
      Buffer.alloc(20, 7),
      Buffer.from([4, 0, 0, 0]),
      Buffer.alloc(4),
    ])
    writeFileSync(join(dir, 'log.bin'), log)
    writeFileSync(join(dir, 'manifest.json'), JSON.stringify({ schema: 'evidence-vectors/1', cases, ...others }))
    return await outcomes(vectorsIn(dir))
  } finally {
    rmSync(dir, { recursive: true })
  }
}

const PCR4 = 'e03a515b95e9316ca86710b8e404a26352653f8e'
const files = { log: { path: 'log.bin' } }
const log = { id: 'log', kind: 'tcg-eventlog-replay', files, expected: { verdict: 'pass', events: 1 } }
const pcrs = { sha1: { 4: PCR4 } }

test('a case is held to its verdict, both ways', async t => {
  const cases = [
    { ...log, expected: { verdict: 'pass', events: 1, pcrs } },
    { ...log, expected: { verdict: 'fail', events: 1, pcrs } },
    { ...log, expected: { verdict: 'pass', pcrs: { sha1: { 4: PCR4.replace(/^./, 'f') } } } },
    { ...log, expected: { verdict: 'fail', pcrs: { sha1: { 4: PCR4.replace(/^./, 'f') } } } },
    { ...log, expected: { verdict: 'pass', events: 2 } },
    { ...log, expected: { verdict: 'passed', pcrs } },
    { ...log, expected: { pcrs } },
  ]
  const found = await ofCases(cases)
  t.deepEqual(
    found.map(({ outcome }) => outcome),
    ['passed', 'failed', 'failed', 'passed', 'failed', 'failed', 'failed'],
  )
})

test('a case without a time of its own is judged at none', t => {
  t.is(seconds('2026-01-31T00:00:00Z'), 1769817600)
  for (const time of [undefined, '', 'yesterday']) t.throws(() => seconds(time), { instanceOf: Mismatch })
})

test('what is thrown for want of a file is one line, too', async t => {
  const [found] = await ofCases([{ ...log, files: { log: { path: 'none.bin' } } }])
  t.is(found?.outcome, 'failed')
  t.regex(String(found?.detail), /none\.bin/)
  t.notRegex(String(found?.detail), /\n/)
})

test('unknown kinds, policies and files fail; two kinds are skipped by name', async t => {
  const cases = [
    { ...log, kind: 'sgx-quote' },
    { ...log, kind: 'launch-digest-note' },
    { ...log, kind: 'nitro-document' },
    { ...log, appraisals: [{ policy: 'any', verdict: 'pass', reason: null }] },
    { ...log, files: {} },
    { ...log, files: { log: { path: 'log.bin', sha256: '00' } } },
  ]
  const found = await ofCases(cases)
  t.deepEqual(
    found.map(({ outcome }) => outcome),
    ['skipped', 'skipped', 'failed', 'failed', 'failed', 'failed'],
  )
})

const whole = { ...log, expected: { verdict: 'pass', pcrs } }
const mutations: readonly (readonly [outcome: Outcome['outcome'], mutation: ManifestCase])[] = [
  ['passed', { file: 'log', offset: 8, xor: 1 }],
  ['passed', { file: 'log', offset: '0x8', xor: '0x80', expected: { verdict: 'fail' } }],
  ['passed', { file: 'log', op: 'flip', offset: 9 }],
  ['passed', { file: 'log.bin', bit: 64 }],
  ['passed', { file: 'log', offset: 8, set: '0102' }],
  ['passed', { file: 'log', truncate: 35 }],
  ['passed', { file: 'log', append: '01' }],
  [
    'passed',
    {
      file: 'log',
      edits: [
        { offset: 0, set: 5 },
        { offset: 4, set: 1 },
      ],
    },
  ],
  ['failed', { file: 'log', offset: 33, xor: 1 }], // the event's data, which its digest does not cover here
  ['passed', { file: 'log', offset: 33, xor: 1, expected: { verdict: 'pass' } }],
  ['failed', { file: 'log', offset: 8, xor: 1, verdict: 'pass' }],
  ['failed', { file: 'log', offset: 99, xor: 1 }],
  ['passed', { file: 'log', op: 'truncate', length: 35 }],
  ['passed', { file: 'log', op: 'truncate', by: 1 }],
  ['passed', { file: 'log', op: 'append', hex: '01' }],
  ['passed', { file: 'log', op: 'insert', offset: 4, hex: '01' }],
  ['passed', { file: 'log', op: 'delete', offset: 4, length: 2 }],
  ['passed', { file: 'log', op: 'zero', offset: 8, length: 20 }],
  ['passed', { file: 'log', op: 'flip-bit', offset: 8, bit: 7 }],
  ['passed', { file: 'log', op: 'set', offset: 8, value: '0102' }],
  ['passed', { file: 'log', op: 'xor', offset: 8, value: '0102' }],
  ['failed', { file: 'log', op: 'xor', offset: 8, value: '00' }],
  ['failed', { file: 'log', op: 'set', offset: -1, value: '0102' }],
  ['failed', { file: 'log', op: 'truncate' }],
  ['failed', { file: 'log', op: 'shuffle', offset: 8 }],
  ['failed', { file: 'log', rotate: 3 }],
]
for (const [outcome, mutation] of mutations) {
  test(`a mutation ${outcome}: ${JSON.stringify(mutation)}`, async t => {
    const [own] = await ofCases([{ ...whole, mutations: [mutation] }])
    t.is(own?.outcome, outcome, own?.detail)
    const [shared] = await ofCases([whole], { mutations: { 'tcg-eventlog-replay': [mutation] } })
    t.is(shared?.outcome, outcome, shared?.detail)
  })
}

test('a mutation for no case of the set, or for a file that its case has not, is a failure', async t => {
  const of = async (mutation: ManifestCase) => {
    const found = await ofCases([whole], { mutations: [mutation] })
    return found.filter(({ outcome }) => outcome === 'failed').map(({ detail }) => detail)
  }
  t.deepEqual(await of({ case: whole.id, file: 'log', offset: 8, xor: 1 }), [])
  t.regex((await of({ case: 'other', file: 'log', offset: 8, xor: 1 })).join(), /no case or kind/)
  t.regex((await of({ case: whole.id, file: 'quote', offset: 8, xor: 1 })).join(), /no file "quote"/)
})

test('a case may be a mutation itself, in bytes or in words', async t => {
  const fail = { verdict: 'fail', pcrs }
  const cases = [
    { ...log, expected: fail, mutation: { file: 'log', offset: 8, xor: 1 } },
    { ...whole, mutation: { file: 'log', offset: 8, xor: 1 } },
    { ...whole, mutation: 'made by hand' },
  ]
  const found = await ofCases(cases)
  t.deepEqual(
    found.map(({ outcome }) => outcome),
    ['passed', 'failed', 'passed'],
  )
})

vectorTest(
  'a rule in words stands for flipped bits, which real cases refuse',
  async t => {
    const vectors = vectorsIn(vectorsDir('vectors') as string)
    const cases = vectors.manifest.cases.filter(({ expected }) => expected.verdict === 'pass')
    const manifest = { ...vectors.manifest, cases, mutations: { rule: { description: 'any bit' } } }
    const found = await outcomes(vectors.with(manifest))
    const failed = found.filter(({ outcome }) => outcome === 'failed').map(({ id, detail }) => `${id}: ${detail}`)
    t.deepEqual(failed, [])
    t.true(found.filter(({ detail }) => detail.endsWith(' mutations')).length >= 14)
  },
  ['vectors'],
)

vectorTest(
  'the key of a quote is read in every form in which tools write it',
  async t => {
    const vectors = vectorsIn(vectorsDir('vectors') as string)
    const entry = vectors.manifest.cases.find(({ id }) => id === 'tpm-quote-azure-kinvolk') as Case
    const { path } = entry.files['ak'] as { path: string }
    const key = createPublicKey(vectors.text(path))
    const algorithm = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }
    const spki = key.export({ format: 'der', type: 'spki' })
    const publicKey = await crypto.subtle.importKey('spki', spki as Uint8Array<ArrayBuffer>, algorithm, true, [
      'verify',
    ])
    const signer = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
    const { privateKey: signingKey } = await crypto.subtle.generateKey(signer, true, ['sign', 'verify'])
    const certificate = await X509CertificateGenerator.create({
      publicKey,
      signingKey,
      signingAlgorithm: signer,
      subject: 'CN=AK',
      issuer: 'CN=CA',
      serialNumber: '01',
    })
    const forms = {
      'RSA PUBLIC KEY': String(key.export({ format: 'pem', type: 'pkcs1' })),
      CERTIFICATE: certificate.toString('pem'),
      'PUBLIC KEY': String(key.export({ format: 'pem', type: 'spki' })),
    }
    const cases = [entry]
    for (const [form, pem] of Object.entries(forms)) {
      const edited = vectors.edited(new Map([[path, new TextEncoder().encode(pem)]]))
      const [outcome] = await outcomes(edited.with({ ...vectors.manifest, cases }))
      t.is(outcome?.outcome, 'passed', `${form}: ${outcome?.detail}`)
    }
    const none = vectors.edited(new Map([[path, new TextEncoder().encode('no key')]]))
    const [outcome] = await outcomes(none.with({ ...vectors.manifest, cases }))
    t.regex(outcome?.detail ?? '', /refused, format: public key cannot be read/)
  },
  ['vectors'],
)

test('the command counts, and its exit code tells of failures', t => {
  const dir = mkdtempSync(join(tmpdir(), 'attested-pod-conformance-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const script = resolve(import.meta.dirname, '..', '..', 'scripts', 'conformance.ts')
  const ended = (cases: readonly ManifestCase[]) => {
    writeFileSync(join(dir, 'manifest.json'), JSON.stringify({ schema: 'evidence-vectors/1', cases }))
    const { status, stdout } = spawnSync(process.execPath, [script, dir], { encoding: 'utf8' })
    return [status, stdout.trimEnd().split('\n').at(-1)]
  }
  t.deepEqual(ended([{ ...log, kind: 'sgx-quote' }]), [0, '0 passed, 0 failed, 1 skipped'])
  t.deepEqual(ended([{ ...log, kind: 'unknown' }]), [1, '0 passed, 1 failed, 0 skipped'])
})

test('a policy that tolerates a status of Intel names it; any other is unknown', t => {
  const entry = { expected: { verdict: 'pass', tcb: { advisoryIDs: ['SA-1'] } } } as unknown as Case
  const tolerated = (name: string) => policyOf(name, entry).tdx?.tcbStatus
  t.deepEqual(tolerated('tcb-allow-sw-hardening'), { require: { SWHardeningNeeded: ['SA-1'] } })
  t.deepEqual(tolerated('tcb-allow-relaunch-advised'), { require: { TdRelaunchAdvised: ['SA-1'] } })
  for (const name of ['tcb-allow-revoked', 'tcb-allow-up-to-date', 'allow-out-of-date', 'anything'])
    t.throws(() => policyOf(name, entry), { message: /unknown policy/ }, name)
})
