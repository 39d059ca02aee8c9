// An owner's order and a hoster's answer, by command line: what goes through `pod order` and `pod host`.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import test from 'ava'

const main = resolve(import.meta.dirname, '../../../client/cli/main.ts')

test('an order is written, taken in, listed, described and removed; mistakes are named with the exit code of their kind', t => {
  const folder = mkdtempSync(join(tmpdir(), 'hosting-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const env = { ...process.env, POD_HOME: join(folder, 'owner'), POD_HOST_HOME: join(folder, 'host') }
  const pod = (...args: string[]) =>
    spawnSync(process.execPath, [main, ...args], { env, encoding: 'utf8', cwd: folder })
  const json = (...args: string[]) => JSON.parse(pod(...args, '--json').stdout)

  const owner = json('init', '--no-passphrase')
  const order = json('order', './order', '--days', '30')
  t.is(order.pod, owner.pod)
  t.deepEqual(readdirSync(join(folder, 'order')).sort(), ['launch-config', 'route'])
  t.is(readFileSync(join(folder, 'order', 'launch-config'), 'hex'), owner.launch)

  t.is(json('host', 'add', './order', '--memory', '1024').id, owner.pod)
  t.like(json('host', 'list').pods[0], {
    id: owner.pod,
    rid: owner.rid,
    memoryMib: 1024,
    running: false,
    noRoute: null,
  })
  t.regex(pod('host', 'list').stdout, new RegExp(`^${owner.pod}  down  127\\.0\\.0\\.1:20000  1024 MiB`))
  const again = pod('host', 'add', './order')
  t.is(again.status, 10)
  t.regex(again.stderr, /was here before: ask the owner for a newer one/)

  const [unit] = json('host', 'describe', 'systemd', 'units').written
  t.regex(readFileSync(join(folder, unit), 'utf8'), /^ExecStart=\S*node \S*hosted\.ts .*--memory 1024/m)
  const cluster = ['--container-disk', 'pod@sha256:0', '--router-image', 'haproxy@sha256:0']
  json('host', 'describe', 'kubevirt', 'pods.json', ...cluster)
  t.is(JSON.parse(readFileSync(join(folder, 'pods.json'), 'utf8')).kind, 'List')

  for (const [args, status, message] of [
    [['host', 'add', './nowhere'], 30, /pod order/],
    [['host', 'add'], 30, /which folder/],
    [['host', 'frobnicate'], 30, /no verb "frobnicate"/],
    [['host', 'up', '--listen', 'x'], 30, /expected HOST:PORT/],
    [['host', 'up', '--silicon', 'tin'], 10, /silicon/],
    [['host', 'up', '--frob'], 30, /--frob/],
    [['host', 'remove', owner.pod], 10, /say --yes/],
    [['host', 'down', 'x'], 10, /no pod x here/],
  ] as const) {
    const { status: found, stderr } = pod(...args)
    t.is(found, status, stderr)
    t.regex(stderr, message)
  }
  t.is(json('host', 'remove', owner.pod, '--yes').removed, owner.pod)
  t.deepEqual(json('host', 'list').pods, [])
  t.regex(pod('host', '--help').stdout, /Example: pod host add/)
})
