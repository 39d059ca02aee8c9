/**
 * The pod's image.
 *
 *   npm run image                        build it into vm-image/out
 *   npm run image -- --profile debug     the same with a shell, under another name and with other measurements
 *   npm run image -- --format gcp        the disk as a cloud imports it: gcp, azure, aws, or raw as it is
 *   npm run image:boot                   start each form of the disk in QEMU, and compare what its TPM measured
 *   npm run image:contents               print everything that is in the image, and the trusted lines of each role
 *   npm run image:reproduce              build twice under other circumstances, and compare every artefact
 *   npm run image:relock                 make vm-image/inputs.lock.json anew and show what changes
 */
import { existsSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { constants } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultFolder, StateFolder } from '../../client/owner/folder.ts'
import { buildImage, type Profile, profiles } from '../../vm-image/build.ts'
import type { Bundle, Contents } from '../../vm-image/contents.ts'
import { explained, ImageError } from '../../vm-image/errors.ts'
import contents from '../../vm-image/contents.json' with { type: 'json' }
import { describeListing, type Listing } from '../../vm-image/listing.ts'
import { readLock } from '../../vm-image/lock.ts'
import type { Measurements } from '../../vm-image/measurements.ts'
import { beside, dropUnfinished, writeWhole } from '../../vm-image/packages.ts'
import { relock } from '../../vm-image/relock.ts'
import { type Format, formats, wrap, wrappedName } from '../../vm-image/wrap.ts'
import { bundle, roles } from '../build.ts'
import { bootFormats } from './boot.ts'
import { reproduce } from './reproduce.ts'
import { manifestBody, type Release, signManifest } from './manifest.ts'

const root = resolve(import.meta.dirname, '..', '..')
const defaultOut = join(root, 'vm-image', 'out')
const started = performance.now()
const progress = (line: string) =>
  console.error(`${((performance.now() - started) / 1000).toFixed(1).padStart(6)} s  ${line}`)

/** The bundles that the image's contents name. */
async function imageBundles(): Promise<Bundle[]> {
  const { root: top, roles: containers } = contents as Contents
  const names = [...top.bundles, ...Object.values(containers).flatMap(({ bundles = [] }) => bundles)]
  const made: Bundle[] = []
  for (const role of names) {
    const entry = roles[role]
    if (entry !== undefined) made.push({ role, ...(await bundle(entry)) })
  }
  return made
}

function profileOf(name: string): Profile {
  const known = profiles.find(each => each === name)
  if (known !== undefined) return known
  throw new ImageError('usage', `--profile: expected ${profiles.join(' or ')}, got "${name}".`)
}

const readJson = <T>(file: string): T => JSON.parse(readFileSync(file, 'utf8')) as T

/** Signed anew with each build: the key is the installation's, not the image's. */
async function writeManifest(out: string, epoch: number): Promise<void> {
  const measured = readJson<Measurements>(join(out, 'measurements.json'))
  const release = readJson<Release>(join(root, 'vm-image', 'release.json'))
  const folder = await StateFolder.open(join(defaultFolder(), 'local'))
  const { cbor, json } = await signManifest(manifestBody(measured, release, epoch), measured, folder)
  writeWhole(join(out, 'reference-values.cbor'), cbor)
  writeWhole(join(out, 'reference-values.json'), json)
}

async function writeFormats(out: string, wanted: readonly Format[], epoch: number): Promise<void> {
  for (const format of wanted) {
    const file = join(out, wrappedName[format])
    if (existsSync(file)) continue // made from the disk beside it: both come and go with the folder
    progress(`wrapping the disk for ${format}`)
    const fresh = beside(file)
    try {
      await wrap(format, join(out, wrappedName.raw), fresh, epoch)
      renameSync(fresh, file)
    } catch (error) {
      throw explained(error)
    } finally {
      rmSync(fresh, { force: true })
    }
  }
}

function formatsOf(names: readonly string[]): Format[] {
  return names.map(name => {
    const known = formats.find(each => each === name)
    if (known === undefined) throw new ImageError('usage', `--format: expected ${formats.join(', ')}, got "${name}".`)
    return known
  })
}

async function build(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      profile: { type: 'string', default: 'release' },
      format: { type: 'string', multiple: true, default: [] },
      out: { type: 'string', default: defaultOut },
      fresh: { type: 'boolean', default: false },
      unsigned: { type: 'boolean', default: false },
    },
  })
  const out = resolve(values.out)
  const profile = profileOf(values.profile)
  const wanted = formatsOf(values.format)
  progress('bundling the roles')
  const { epoch } = readLock(root)
  const state = await buildImage({ root, out, profile, bundles: await imageBundles(), progress, fresh: values.fresh })
  if (!values.unsigned) await writeManifest(out, epoch)
  await writeFormats(out, wanted, epoch)
  progress(`${state}: ${out}`)
}

async function makeLock(): Promise<void> {
  const changes = await relock(root, new Date(), progress)
  console.log(changes.length === 0 ? 'nothing changed' : changes.join('\n'))
}

/** The parts that a machine loads. */
const loaded = ['vmlinuz', 'initrd.zst', 'root.squashfs'] as const

async function showContents(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({ args: [...args], options: { out: { type: 'string', default: defaultOut } } })
  await build(['--out', values.out])
  const listing = readJson<Listing>(join(values.out, 'contents.json'))
  const sizes = Object.fromEntries(loaded.map(name => [name, statSync(join(values.out, name)).size]))
  console.log(describeListing(listing, sizes).join('\n'))
}

/** Every form of the disk, made where it is not there; or those that --format names. */
async function boot(args: readonly string[]): Promise<void> {
  const options = { out: { type: 'string', default: defaultOut }, format: { type: 'string', multiple: true } } as const
  const { values } = parseArgs({ args: [...args], options })
  const wanted = values.format === undefined ? formats : formatsOf(values.format)
  await build(['--out', values.out, ...wanted.flatMap(format => ['--format', format])])
  await bootFormats(resolve(values.out), wanted, progress)
}

const commands: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = {
  boot,
  contents: showContents,
  relock: makeLock,
  reproduce: async () => console.log(`identical: ${await reproduce(root, progress)} artefacts`),
}

/** A build that is told to end leaves what was there before, and nothing of its own. */
function endCleanly(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      dropUnfinished()
      console.error('Interrupted: what was there before is untouched; run the same command again.')
      process.exit(128 + constants.signals[signal])
    })
  }
}

async function main(): Promise<void> {
  endCleanly()
  const [name = '', ...rest] = process.argv.slice(2)
  const command = commands[name]
  await (command === undefined ? build(process.argv.slice(2)) : command(rest))
}

main().catch(cause => {
  const error = explained(cause)
  const usage = String((error as NodeJS.ErrnoException).code).startsWith('ERR_PARSE_ARGS')
  if (!usage && !(error instanceof ImageError)) throw error
  console.error((error as Error).message)
  process.exit(error instanceof ImageError ? error.exitCode : 30)
})
