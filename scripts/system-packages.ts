// What the tests want from the system: a browser, a PostgreSQL server of the distribution's own, an emulated TPM, and the
// programs that are the oracles of ours.
// Installed when this process may (root, or sudo without a password); otherwise it says exactly what to install.
import { spawnSync } from 'node:child_process'
import { existsSync, globSync } from 'node:fs'

const onPath = (name: string) => (process.env['PATH'] ?? '').split(':').some(folder => existsSync(`${folder}/${name}`))

const wanted: Readonly<Record<string, () => boolean>> = {
  age: () => onPath('age'),
  chromium: () => onPath('chromium'),
  'poppler-utils': () => onPath('pdftoppm'),
  swtpm: () => onPath('swtpm'),
  haproxy: () => existsSync('/usr/sbin/haproxy'),
  systemd: () => onPath('systemd-analyze'),
  'tpm2-tools': () => onPath('tpm2_quote'),
  postgresql: () => globSync('/usr/lib/postgresql/*/bin/postgres').length > 0,
}

/** Names of the packages that are still missing afterwards; empty when everything is there. */
export function ensureSystemPackages(): string[] {
  const missing = () => Object.entries(wanted).flatMap(([name, present]) => (present() ? [] : [name]))
  const names = missing()
  if (names.length === 0) return []
  const asRoot = process.getuid?.() === 0 ? [] : ['sudo', '-n']
  const run = (...command: string[]) => {
    const [program = '', ...flags] = [...asRoot, ...command]
    return spawnSync(program, flags, { stdio: ['ignore', 'ignore', 'inherit'] }).status === 0
  }
  const install = () =>
    run('env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', 'install', '-y', '-qq', '--no-install-recommends', ...names)
  if (onPath('apt-get') && run('true')) {
    console.error(`Installing ${names.join(' and ')} for the tests ...`)
    if (!install() && run('apt-get', 'update', '-qq')) install()
  }
  return missing()
}
