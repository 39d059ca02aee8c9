/** The same pods as units of systemd, for a machine that starts them by itself: a unit each, and one for the router. */
import type { HostedPod } from './registry.ts'

/** Quoted as systemd reads it (systemd.service(5), "Command lines"): no expansion of `%`, `$` or quotes is left. */
const quote = (word: string): string =>
  /^[A-Za-z0-9_./:,=@+-]+$/.test(word)
    ? word
    : `"${word.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('%', '%%').replaceAll('$', '$$$$')}"`

const commandLine = (words: readonly string[]): string => words.map(quote).join(' ')

/** What a unit may do: nothing but its own folder, and the devices of virtual machines. */
const confinement = (folder: string): string[] => [
  'NoNewPrivileges=yes',
  'ProtectSystem=strict',
  'ProtectHome=read-only',
  'PrivateTmp=yes',
  'ProtectKernelTunables=yes',
  'ProtectKernelModules=yes',
  'ProtectControlGroups=yes',
  `ReadWritePaths=${folder}`,
]

export const podUnitName = ({ id }: HostedPod): string => `attested-pod-${id}.service`
export const ROUTER_UNIT = 'attested-pod-router.service'

export function podUnit(pod: HostedPod, folder: string, command: readonly string[]): string {
  return [
    '[Unit]',
    `Description=Pod ${pod.id} of owner ${pod.rid}`,
    'After=network.target',
    '',
    '[Service]',
    'Type=exec',
    `ExecStart=${commandLine(command)}`,
    `WorkingDirectory=${folder}`,
    'Restart=on-failure',
    'RestartSec=10',
    'TimeoutStopSec=60',
    ...confinement(folder),
    '',
    '[Install]',
    'WantedBy=multi-user.target',
    '',
  ].join('\n')
}

/** @param config HAProxy's configuration, and `folder` where its sockets lie */
export function routerUnit(config: string, folder: string, pods: readonly HostedPod[]): string {
  return [
    '[Unit]',
    'Description=Router in front of pods',
    'After=network-online.target',
    'Wants=network-online.target',
    ...pods.map(pod => `Wants=${podUnitName(pod)}`),
    '',
    '[Service]',
    'Type=notify',
    `ExecStartPre=/usr/sbin/haproxy -c -q -f ${quote(config)}`,
    `ExecStart=/usr/sbin/haproxy -Ws -f ${quote(config)}`,
    `ExecReload=/usr/sbin/haproxy -c -q -f ${quote(config)}`,
    'ExecReload=/bin/kill -USR2 $MAINPID',
    'KillMode=mixed',
    'Restart=always',
    ...confinement(folder),
    '',
    '[Install]',
    'WantedBy=multi-user.target',
    '',
  ].join('\n')
}
