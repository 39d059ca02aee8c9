import crypto from 'node:crypto'
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import test from 'ava'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { openReferenceValues, ReferenceValues } from '../../attestation/reference-values.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import { manifestBody, signManifest } from '../../scripts/image/manifest.ts'
import { compareFolders, firstDifference } from '../../scripts/image/reproduce.ts'
import { openInstallation } from '../../scripts/installation.ts'
import { ImageError } from '../../vm-image/errors.ts'
import type { Measurements } from '../../vm-image/measurements.ts'

const p = nodePrimitives(crypto)
const root = resolve(import.meta.dirname, '..', '..')
const folder = mkdtempSync(join(tmpdir(), 'image-'))
test.after.always(() => rmSync(folder, { recursive: true }))

function artefacts(name: string, files: Record<string, string>): string {
  const into = join(folder, name)
  mkdirSync(into)
  for (const [file, content] of Object.entries(files)) writeFileSync(join(into, file), content)
  return into
}

test('two builds that are the same are counted', t => {
  const files = { a: 'x'.repeat(3 << 20), b: '' }
  t.is(compareFolders(artefacts('same-1', files), artefacts('same-2', files)), 2)
})

test('two builds that differ are told apart by file and first byte', t => {
  const long = 'x'.repeat((1 << 20) + 5)
  const left = artefacts('left', { a: 'same', b: `${long}1` })
  const right = artefacts('right', { a: 'same', b: `${long}2` })
  const error = t.throws(() => compareFolders(left, right), { instanceOf: ImageError })
  t.is(error.exitCode, 50)
  t.true(error.message.startsWith(`b differs first at byte ${long.length};`), error.message)
  t.is(firstDifference(join(left, 'a'), join(right, 'a')), null)
  const shorter = artefacts('shorter', { a: 'same', b: long })
  t.is(firstDifference(join(left, 'b'), join(shorter, 'b')), long.length)
  const more = artefacts('more', { a: 'same', b: long, c: '' })
  t.throws(() => compareFolders(shorter, more), { message: /Only one of the builds made c/ })
})

const hash = (byte: number) => byte.toString(16).padStart(2, '0').repeat(48)
const measured = {
  product: 'attested-pod-debug',
  snp: [1, 2, 2].map(byte => ({ vcpuType: 'EPYC-v4', vcpus: 1, guestFeatures: '0x1', launchDigest: hash(byte) })),
  tdx: [{ pages: 'page-by-page', mrTd: hash(3), rtmr1: hash(4), rtmr2: hash(5), measurement: hash(6) }],
  vtpm: { sha256: {}, sha384: {} },
} as unknown as Measurements

test("an image's reference values open with the installation's release key, and name the product of its profile", async t => {
  const installation = await StateFolder.open(join(folder, 'installation'))
  const body = manifestBody(measured, { version: 3, minVersion: 2, validDays: 10 }, 1000)
  const { cbor, json } = await signManifest(body, measured, installation)
  const { releaseKey } = await openInstallation(installation)
  const opened = ReferenceValues.body(await openReferenceValues(p, cbor, { threshold: 1, keys: [[1, releaseKey]] }))
  t.is(opened.product, 'attested-pod-debug')
  t.is(opened.expires, 1000 + 10 * 86_400)
  t.deepEqual(
    opened.entries.map(({ tee, measurements }) => [tee, measurements.length]),
    [
      ['snp', 2],
      ['simulated-snp', 2],
      ['tdx', 1],
      ['simulated-tdx', 1],
    ],
  )
  t.deepEqual((JSON.parse(json) as { entries: { measurements: string[] }[] }).entries[0]?.measurements, [
    hash(1),
    hash(2),
  ])
  await t.throwsAsync(openReferenceValues(p, cbor, { threshold: 1, keys: [[1, new Uint8Array(32)]] }))
})

const wrong: Record<string, [args: string[], message: RegExp]> = {
  'a profile': [['--profile', 'other'], /^--profile: expected release or debug, got "other"\.\n$/],
  'a format': [['--format', 'floppy'], /^--format: expected raw, gcp, azure, aws, got "floppy"\.\n$/],
  'an option': [['--nothing'], /Unknown option '--nothing'/],
}
for (const [what, [args, message]] of Object.entries(wrong)) {
  test(`npm run image: ${what} that is none is told in one sentence`, t => {
    const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts/image/main.ts'), ...args], {
      encoding: 'utf8',
    })
    t.is(status, 30)
    t.regex(stderr, message)
  })
}

test('npm run image: interrupted, it says so and leaves what was there', async t => {
  const out = artefacts('interrupted', { vmlinuz: 'from before' })
  const build = spawn(process.execPath, [join(root, 'scripts/image/main.ts'), '--unsigned', '--out', out])
  const ended = new Promise<number | null>(done => build.once('close', done))
  let said = ''
  build.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (said === '') build.kill('SIGINT')
    said += text
  })
  t.is(await ended, 130)
  t.regex(said, /Interrupted: what was there before is untouched; run the same command again\.\n$/)
  t.deepEqual(readdirSync(out), ['vmlinuz'])
  t.deepEqual(
    readdirSync(folder).filter(name => name.endsWith('.tmp')),
    [],
  )
})
