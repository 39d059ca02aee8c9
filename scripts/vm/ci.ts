/**
 * npm run test:vm [SUITE...]: the pod's image in virtual machines, one after the other. Closes with a line of counts.
 */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { hostile } from '../../tests/vm/hostile.ts'
import { isolation } from '../../tests/vm/isolation.ts'
import { life } from '../../tests/vm/life.ts'
import { Report, SuiteEnded } from '../../tests/vm/report.ts'

const root = resolve(import.meta.dirname, '../..')
const image = join(root, 'vm-image', 'out')

/** Made where it is not there, or is another's; the image's own cache says so. */
function debugImage(): string {
  const out = join(root, 'vm-image', 'out-debug')
  const flags = ['--profile', 'debug', '--out', out]
  execFileSync(process.execPath, [join(root, 'scripts/image/main.ts'), ...flags], { stdio: 'inherit' })
  return out
}

const suites: Readonly<Record<string, (report: Report) => Promise<void>>> = {
  life: report => life(report, image),
  ...Object.fromEntries(
    Object.entries(hostile).map(([name, suite]) => [name, (report: Report) => suite(report, image)]),
  ),
  isolation: report => isolation(report, debugImage()),
}

const wanted = process.argv.slice(2)
const unknown = wanted.find(name => suites[name] === undefined)
if (unknown !== undefined || !existsSync(join(image, 'cmdline'))) {
  console.error(
    unknown === undefined
      ? 'there is no image yet: npm run image'
      : `no suite "${unknown}": ${Object.keys(suites).join(', ')}`,
  )
  process.exit(1)
}
const report = new Report()
for (const [name, suite] of Object.entries(suites)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  console.log(`${name}:`)
  try {
    await suite(report)
  } catch (error) {
    if (!(error instanceof SuiteEnded))
      report.check(name, false, error instanceof Error ? error.message : String(error))
  }
}
console.log(`${report.passed} passed, ${report.failed} failed`)
process.exit(report.failed > 0 ? 1 : 0)
