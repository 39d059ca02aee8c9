import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { Malformed, Unsupported } from '../../../attestation/errors.ts'
import { parsePolicy, standardPolicy } from '../../../attestation/policy.ts'
import type { ManifestEntry } from '../../../attestation/reference-values.ts'
import { encodeCorim } from '../../../attestation/standards/corim.ts'
import {
  loadReferenceValues,
  loadPolicy,
  policyText,
  preset,
  type PresetName,
  presets,
  simulationPreset,
} from '../../../client/cli/policies.ts'
import { manifest, p } from '../../support/silicon.ts'

type Schema = Readonly<Record<string, unknown>>
const schema = JSON.parse(policyText('schema')) as Schema
const names = Object.keys(presets) as PresetName[]
const copy = (name: PresetName) => JSON.parse(policyText(name)) as Record<string, Record<string, unknown>>

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** The part of JSON Schema that the file uses. */
function fits(value: unknown, of: Schema): boolean {
  const { $ref, oneOf, type, minimum = 0, maximum = Infinity, pattern, items, minItems = 0, maxItems = Infinity } = of
  if (typeof $ref === 'string') return fits(value, (schema['$defs'] as Record<string, Schema>)[$ref.slice(8)] as Schema)
  if (Array.isArray(oneOf)) return oneOf.filter(one => fits(value, one as Schema)).length === 1
  if ('const' in of) return value === of['const']
  if (Array.isArray(of['enum'])) return of['enum'].includes(value)
  if (type === 'null') return value === null
  if (type === 'string')
    return typeof value === 'string' && (typeof pattern !== 'string' || new RegExp(pattern).test(value))
  if (type === 'integer')
    return Number.isInteger(value) && Number(value) >= Number(minimum) && Number(value) <= Number(maximum)
  if (type === 'array') {
    if (!Array.isArray(value) || value.length < Number(minItems) || value.length > Number(maxItems)) return false
    return value.every(one => fits(one, items as Schema))
  }
  if (type !== 'object' || !isObject(value)) return false
  const {
    properties = {},
    patternProperties = {},
    required = [],
  } = of as {
    properties?: Record<string, Schema>
    patternProperties?: Record<string, Schema>
    required?: string[]
  }
  const schemaOf = (key: string) =>
    properties[key] ?? Object.entries(patternProperties).find(([like]) => new RegExp(like).test(key))?.[1]
  return (
    required.every(key => key in value) &&
    Object.entries(value).every(([key, one]) => schemaOf(key) !== undefined && fits(one, schemaOf(key) as Schema))
  )
}

for (const name of names) {
  test(`preset ${name}: loads, fits the schema, and a rule taken out of it refuses both`, t => {
    t.notThrows(() => preset(name))
    t.true(fits(copy(name), schema))
    for (const rule of Object.keys(copy(name))) {
      const { [rule]: _, ...rest } = copy(name)
      t.false(fits(rest, schema), rule)
    }
    for (const part of ['tdx', 'vtpm']) {
      for (const rule of Object.keys(copy(name)[part] ?? {})) {
        const less = copy(name)
        delete less[part]?.[rule]
        t.false(fits(less, schema), `${part}.${rule}`)
      }
    }
    t.false(fits({ ...copy(name), later: { waive: 'unknown' } }, schema))
    t.false(fits({ ...copy(name), debug: { waive: ' ' } }, schema))
    t.false(fits({ ...copy(name), debug: { require: 'forbidden', waive: 'both' } }, schema))
  })
}

test('what a cloud forces is waived by name, and nothing else differs from the strictest preset', t => {
  const bare = copy('bare-metal')
  const differing = (name: PresetName) =>
    Object.keys(bare).filter(rule => JSON.stringify(copy(name)[rule]) !== JSON.stringify(bare[rule]))
  t.deepEqual(differing('google'), ['product', 'measurement'])
  t.deepEqual(differing('google-vtpm'), ['product', 'measurement', 'vtpm'])
  t.deepEqual(differing('aws'), ['product', 'endorsementKey', 'measurement', 'platform', 'tdx'])
  t.deepEqual(differing('azure'), ['product', 'measurement', 'owner', 'tdx', 'vtpm'])
  t.regex(String(copy('aws')['product']?.['waive']), /Milan/)
  t.regex(String(copy('aws')['platform']?.['waive']), /no chip/)
})

test('bare-metal asks what an owner asks, but for what only an owner knows', async t => {
  const owner = standardPolicy({
    manifest: await manifest(),
    manifestFloor: 1,
    launchHash: new Uint8Array(32),
    launchHash384: new Uint8Array(48),
    platform: { require: [] },
  })
  const { tdx, ...rules } = preset('bare-metal')
  const asked = (policy: object) => Object.entries(policy).filter(([, rule]) => 'require' in Object(rule))
  const known = new Set(['measurement', 'owner', 'platform', 'minimumTcb', 'mrConfigId', 'registers'])
  const common = (policy: object) => asked(policy).filter(([name]) => !known.has(name))
  t.deepEqual(common(rules), common(owner))
  t.deepEqual(common(tdx ?? {}), common(owner.tdx ?? {}))
})

test('simulated silicon is accepted by its root only, and never where none is known', t => {
  t.throws(() => simulationPreset([]), { instanceOf: Malformed, message: /pod up/ })
  t.like(simulationPreset([new Uint8Array(32)]).acceptSimulatedEvidence, { rootSha256: [new Uint8Array(32)] })
})

test('a policy file: one that lacks a rule, is nested without end, or is no text is refused', async t => {
  const path = join(await mkdtemp(join(tmpdir(), 'pod-policy-')), 'policy.json')
  const refused = async (content: string | Uint8Array, message: RegExp) => {
    await writeFile(path, content)
    await t.throwsAsync(loadPolicy(path), { instanceOf: Malformed, message })
  }
  await writeFile(path, policyText('aws'))
  t.deepEqual(await loadPolicy(path), preset('aws'))
  const { revocation: _, ...rest } = copy('aws')
  await refused(JSON.stringify(rest), /"revocation" is missing/)
  await refused(`${'['.repeat(30_000)}${']'.repeat(30_000)}`, /not JSON/)
  await refused(policyText('aws').replace('{', '{"debug": {"waive": "hidden"},'), /stands twice/)
  await refused(Uint8Array.of(0xff), /not UTF-8/)
  await refused(' '.repeat(64 * 1024 + 1), /at most/)
  await t.throwsAsync(loadPolicy('/no/such/policy'), { instanceOf: Malformed, message: /no file/ })
  t.throws(() => policyText('own machine'), { instanceOf: Malformed })
})

const entry = { tee: 'snp', measurements: ['aa'.repeat(48)], flags: ['host-data'], minTcb: [['Genoa', '00'.repeat(8)]] }
const corimEntry = { ...entry, measurements: [new Uint8Array(48).fill(0xaa)] }

test('a policy may hold the entries that pod measure prints', t => {
  const rules = (entries: unknown) => ({ ...copy('bare-metal'), measurement: { require: { entries } } })
  const { measurement } = parsePolicy(JSON.stringify(rules([entry])))
  const approved = 'require' in measurement ? measurement.require : {}
  t.like(approved, { entries: [{ tee: 'snp', measurements: corimEntry.measurements, flags: ['host-data'] }] })
  t.true(fits(rules([entry]), schema))
  for (const bad of [[], [{ ...entry, tee: 'sgx' }], [{ ...entry, flags: ['fips'] }], [{ ...entry, later: 1 }]]) {
    t.throws(() => parsePolicy(JSON.stringify(rules(bad))), { instanceOf: Malformed })
    t.false(fits(rules(bad), schema))
  }
})

test('reference values from a file: a CoRIM, or JSON, each once', async t => {
  const path = join(await mkdtemp(join(tmpdir(), 'pod-values-')), 'values')
  const read = async (content: string | Uint8Array) => {
    await writeFile(path, content)
    return loadReferenceValues(path)
  }
  const expected = [{ ...corimEntry, minTcb: [['Genoa', new Uint8Array(8)]] }] as ManifestEntry[]
  const same = async (content: string | Uint8Array) =>
    t.deepEqual(
      (await read(content)).entries.map(one => ({ ...one })),
      expected,
    )
  await same(JSON.stringify({ entries: [entry], measured: [] }, null, 2))
  await same(encodeCorim(p, { entries: expected, registers: new Map() }))
  await t.throwsAsync(read('{"measured":[]}'), { instanceOf: Malformed, message: /neither entries nor registers/ })
  await t.throwsAsync(read('{"entries":[],"entries":[]}'), { instanceOf: Malformed, message: /stands twice/ })
  await t.throwsAsync(read(Uint8Array.of(0xff)), { instanceOf: Malformed, message: /neither a CoRIM nor JSON/ })
  await t.throwsAsync(read(Uint8Array.of(0xd2, 0x84)), { instanceOf: Unsupported, message: /a signed manifest/ })
  await t.throwsAsync(read(' '.repeat(64 * 1024 + 1)), { instanceOf: Malformed, message: /at most/ })
})
