// What a fallen role tries, with nothing but its own Node.js: run inside its container, prints one JSON line.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'

const outcome = work => {
  try {
    work()
    return 'done'
  } catch (error) {
    return error.code ?? String(error)
  }
}
const opens = path => outcome(() => fs.closeSync(fs.openSync(path, 'r+')))
const reads = path =>
  outcome(() => {
    if (fs.readFileSync(path).length === 0) throw Object.assign(new Error(), { code: 'empty' })
  })
const lists = path =>
  outcome(() => {
    if (fs.readdirSync(path).length === 0) throw Object.assign(new Error(), { code: 'empty' })
  })
const writes = path => outcome(() => fs.writeFileSync(path, 'x'))
const connects = where =>
  new Promise(done => {
    const socket = net.connect(where)
    socket.setTimeout(3000, () => socket.destroy(Object.assign(new Error(), { code: 'silence' })))
    socket.once('connect', () => done('done'))
    socket.once('error', error => done(error.code))
  })
// Of the role itself, the first process of its container.
const own = fs.readFileSync('/proc/1/status', 'utf8')
const cards = [...fs.readFileSync('/proc/self/net/dev', 'utf8').matchAll(/^\s*(\w+):/gm)].map(([, name]) => name)
const field = name => new RegExp(`^${name}:\\s+(\\S+)`, 'm').exec(own)?.[1]
const processes = fs.readdirSync('/proc').filter(name => /^\d+$/.test(name))
const uids = new Set(
  processes.map(pid =>
    outcome(() => {
      const uid = /^Uid:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
      throw Object.assign(new Error(), { code: uid })
    }),
  ),
)
const tried = {
  'quoting device': opens('/dev/psp'),
  'first raw disk': opens('/dev/vda'),
  'data disk': opens('/dev/vdc1'),
  'opened data disk': opens('/dev/dm-2'),
  'memory device': opens('/dev/mem'),
  'kernel log device': opens('/dev/kmsg'),
  'roots of the roles': lists('/roles'),
  'the mounted data': lists('/run/data'),
  "the edge's configuration": reads('/run/pod/edge.json'),
  "the keyholder's configuration": reads('/run/pod/keyholder.json'),
  "the api's configuration": reads('/run/pod/api.json'),
  'socket keyholder-edge': await connects('/run/pod/keyholder-edge/socket'),
  'socket keyholder-api': await connects('/run/pod/keyholder-api/socket'),
  'socket api-edge': await connects('/run/pod/api-edge/socket'),
  'socket of PostgreSQL': await connects('/run/pod/pg/.s.PGSQL.5432'),
  'a socket beside them': writes('/run/pod/keyholder-api/other'),
  network: await connects({ host: '10.0.2.2', port: 9 }),
  'network interfaces': cards.filter(name => name !== 'lo').join() || 'none',
  'processes of others': [...uids].filter(uid => uid !== field('Uid')).join() || 'none',
  'kernel memory': reads('/proc/kcore'),
  'kernel symbols': reads('/proc/kallsyms'),
  'kernel settings': writes('/proc/sys/kernel/core_pattern'),
  'system request': writes('/proc/sysrq-trigger'),
  'hardware tree': lists('/sys/class'),
  'control groups': lists('/sys/fs/cgroup'),
  'its own root': writes('/usr/x'),
  'another user': outcome(() => process.setuid(0)),
  'a shell': spawnSync('/bin/sh', ['-c', ':']).error?.code ?? 'done',
  capabilities: field('CapEff') === '0000000000000000' && field('CapBnd') === '0000000000000000' ? 'none' : 'some',
  'new privileges': field('NoNewPrivs') === '1' ? 'none' : 'some',
  'system calls': field('Seccomp') === '2' ? 'filtered' : 'all',
}
console.log(`\nPROBE ${JSON.stringify(tried)}`)
process.exit(0)
