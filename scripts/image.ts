/**
 * The pod's image.
 *
 *   npm run image                        build it into vm-image/out
 *   npm run image -- --profile debug     the same with a shell, under another name and with other measurements
 *   npm run image:relock                 make vm-image/inputs.lock.json anew and show what changes
 */
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { buildImage, type Profile, profiles } from '../vm-image/build.ts'
import type { Bundle, Contents } from '../vm-image/contents.ts'
import { ImageError } from '../vm-image/errors.ts'
import contents from '../vm-image/contents.json' with { type: 'json' }
import { relock } from '../vm-image/relock.ts'
import { bundle, roles } from './build.ts'

const root = resolve(import.meta.dirname, '..')
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

async function build(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      profile: { type: 'string', default: 'release' },
      out: { type: 'string', default: join(root, 'vm-image', 'out') },
      fresh: { type: 'boolean', default: false },
    },
  })
  const { out, fresh } = values
  const profile = profileOf(values.profile)
  progress('bundling the roles')
  const state = await buildImage({ root, out: resolve(out), profile, bundles: await imageBundles(), progress, fresh })
  progress(`${state}: ${out}`)
}

async function makeLock(): Promise<void> {
  const changes = await relock(root, new Date(), progress)
  console.log(changes.length === 0 ? 'nothing changed' : changes.join('\n'))
}

const commands: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = { relock: makeLock }

async function main(): Promise<void> {
  const [name = '', ...rest] = process.argv.slice(2)
  const command = commands[name]
  await (command === undefined ? build(process.argv.slice(2)) : command(rest))
}

main().catch(error => {
  const usage = (error as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS')
  if (!usage && !(error instanceof ImageError)) throw error
  console.error((error as Error).message)
  process.exit(error instanceof ImageError ? error.exitCode : 30)
})
