/** `npm start` as a newcomer runs it, without npm in between. */
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import test from 'ava'
import { temporaryFolder } from '../support/pod.ts'

const script = resolve(import.meta.dirname, '../../scripts/start.ts')

function start(home: string, args: readonly string[], onOutput: (text: string, stop: () => void) => void = () => {}) {
  const child = spawn(process.execPath, [script, ...args], {
    env: { ...process.env, POD_HOME: home, DATABASE_URL: '' },
  })
  let output = ''
  let errors = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
    onOutput(output, () => child.kill('SIGINT'))
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text
  })
  return new Promise<{ code: number | null; output: string; errors: string }>(done => {
    child.once('close', code => done({ code, output, errors }))
  })
}

type Report = {
  evidence: { platform: string; measurement: string; chip: string; steps: { step: string; outcome: string }[] }
  lease: { key: string; maxSeconds: number }[]
  stored: { created: number; unchanged: number; updated: number; items: number; skipped: unknown[] }
  readBack: { id: string; text: string }
  timings: Record<string, number>
  home: string
}

test('once, with a report; the second start finds the same owner and data; one changed file is updated', async t => {
  const home = temporaryFolder(t)
  const documents = join(home, 'documents')
  mkdirSync(join(documents, 'deep'), { recursive: true })
  writeFileSync(join(documents, 'a.md'), '# A\nfirst')
  writeFileSync(join(documents, 'deep', 'b.txt'), 'second')
  const args = ['--once', '--json', '--import', documents]
  const first = await start(join(home, 'pod'), args)
  t.is(first.code, 0, first.errors)
  const one = JSON.parse(first.output) as Report
  t.is(one.evidence.platform, 'simulated-snp')
  t.regex(one.evidence.measurement, /^[0-9a-f]{96}$/)
  t.regex(one.evidence.chip, /^[0-9a-f]{128}$/)
  const steps = new Set(one.evidence.steps.map(({ step }) => step))
  for (const step of [
    'format',
    'chain',
    'signature',
    'tcb',
    'measurement',
    'owner',
    'binding',
    'platform',
    'session',
  ]) {
    t.true(steps.has(step), step)
  }
  t.true(one.lease.some(({ key, maxSeconds }) => key === 'collection memories' && maxSeconds === 8 * 3600))
  t.like(one.stored, { created: 2, updated: 0, unchanged: 0, items: 3 })
  t.true(one.readBack.text.length > 0)
  t.deepEqual(Object.keys(one.timings).toSorted(), ['import', 'memory', 'release', 'start', 'verify'])

  writeFileSync(join(documents, 'a.md'), '# A\nchanged')
  const second = await start(join(home, 'pod'), args)
  t.is(second.code, 0, second.errors)
  const two = JSON.parse(second.output) as Report
  t.is(two.evidence.chip, one.evidence.chip)
  t.is(two.evidence.measurement, one.evidence.measurement)
  t.like(two.stored, { created: 0, updated: 1, unchanged: 1, items: 4 })
})

test('stays up until Ctrl-C, which locks and ends it', async t => {
  const home = temporaryFolder(t)
  const { code, output, errors } = await start(join(home, 'pod'), ['--import', home], (text, stop) => {
    if (text.includes('Ctrl-C locks it')) stop()
  })
  t.is(code, 0, errors)
  t.regex(output, /Locked: the keys are gone/)
  t.regex(output, /measurement {2}[0-9a-f]{96}/)
})

test('a word it does not know, and a folder that is not there, are named', async t => {
  const home = temporaryFolder(t)
  const unknown = await start(home, ['--onec'])
  t.is(unknown.code, 30)
  t.regex(unknown.errors, /--onec/)
  const missing = await start(home, ['--import', join(home, 'nowhere')])
  t.is(missing.code, 30)
  t.regex(missing.errors, /nowhere: there is no such folder/)
  const help = await start(home, ['--help'])
  t.is(help.code, 0)
  t.regex(help.output, /Example: npm start/)
})
