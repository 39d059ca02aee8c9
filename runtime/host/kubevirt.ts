/**
 * The same pods for hosters who outgrow one machine: manifests of KubeVirt, one List of JSON, which `kubectl apply -f` takes.
 * A machine, its two disks and a service for each pod; HAProxy with the same configuration in front.
 *
 * Not run on a cluster. KubeVirt sets neither HOST_DATA nor MRCONFIGID: there the owner's client has the launch config's
 * hash from the session and from PCR 12 alone, and its policy has to waive `owner` or `mrConfigId` by name.
 */
import type { HostedPod } from './registry.ts'

export type ClusterOptions = Readonly<{
  /** The container disk with packaging B's `disk.raw`. */
  containerDisk: string
  silicon: 'snp' | 'tdx' | 'none'
  /** Image of HAProxy, by digest. */
  routerImage: string
}>

const GUEST_PORT = 8080
export const ROUTER_PORT = 8080
export const ROUTER_FOLDER = '/run/haproxy'

export const podName = ({ id }: Pick<HostedPod, 'id'>): string => `pod-${id}`
/** Where the router finds a pod. */
export const podAddress = (pod: Pick<HostedPod, 'id'>): string => `${podName(pod)}:${GUEST_PORT}`

const labelsOf = ({ id, rid }: HostedPod) => ({ app: 'attested-pod', 'attested-pod/id': id, 'attested-pod/rid': rid })

/** A raw disk: no file system of the cluster's is in between. */
const claim = (pod: HostedPod, disk: 'launch' | 'data', storage: string) => ({
  apiVersion: 'v1',
  kind: 'PersistentVolumeClaim',
  metadata: { name: `${podName(pod)}-${disk}`, labels: labelsOf(pod) },
  spec: { accessModes: ['ReadWriteOnce'], volumeMode: 'Block', resources: { requests: { storage } } },
})

const service = (pod: HostedPod) => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name: podName(pod), labels: labelsOf(pod) },
  spec: {
    selector: { 'attested-pod/id': pod.id },
    ports: [{ name: 'sealed', port: GUEST_PORT, targetPort: GUEST_PORT }],
  },
})

const readOnly = (name: string) => ({ name, serial: name, disk: { bus: 'virtio', readonly: true } })

export function virtualMachine(pod: HostedPod, { containerDisk, silicon }: ClusterOptions) {
  const { memoryMib, processors } = pod
  const labels = labelsOf(pod)
  return {
    apiVersion: 'kubevirt.io/v1',
    kind: 'VirtualMachine',
    metadata: { name: podName(pod), labels },
    spec: {
      runStrategy: 'Always',
      template: {
        metadata: { labels },
        spec: {
          domain: {
            cpu: { cores: processors },
            memory: { guest: `${memoryMib}Mi` },
            firmware: { bootloader: { efi: { secureBoot: false } } },
            ...(silicon === 'none' ? {} : { launchSecurity: { [silicon]: {} } }),
            devices: {
              autoattachGraphicsDevice: false,
              disks: [
                { ...readOnly('image'), bootOrder: 1 },
                readOnly('launch'),
                { name: 'data', serial: 'data', disk: { bus: 'virtio' } },
              ],
              interfaces: [{ name: 'default', masquerade: {}, ports: [{ port: GUEST_PORT }] }],
            },
          },
          networks: [{ name: 'default', pod: {} }],
          terminationGracePeriodSeconds: 60,
          volumes: [
            { name: 'image', containerDisk: { image: containerDisk } },
            { name: 'launch', persistentVolumeClaim: { claimName: `${podName(pod)}-launch` } },
            { name: 'data', persistentVolumeClaim: { claimName: `${podName(pod)}-data` } },
          ],
        },
      },
    },
  }
}

const ROUTER = 'attested-pod-router'
const routerLabels = { app: ROUTER }

/** @param config HAProxy's, with pods by {@link podAddress} and sockets in {@link ROUTER_FOLDER} */
function router(config: string, { routerImage }: ClusterOptions) {
  const metadata = { name: ROUTER, labels: routerLabels }
  const command = ['haproxy', '-W', '-db', '-f', '/etc/attested-pod/haproxy.cfg']
  const container = {
    name: 'haproxy',
    image: routerImage,
    command,
    ports: [{ containerPort: ROUTER_PORT }],
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsNonRoot: true,
    },
    volumeMounts: [
      { name: 'config', mountPath: '/etc/attested-pod', readOnly: true },
      { name: 'run', mountPath: ROUTER_FOLDER },
    ],
  }
  const volumes = [
    { name: 'config', configMap: { name: ROUTER } },
    { name: 'run', emptyDir: {} },
  ]
  return [
    { apiVersion: 'v1', kind: 'ConfigMap', metadata, data: { 'haproxy.cfg': config } },
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata,
      spec: {
        replicas: 1,
        selector: { matchLabels: routerLabels },
        template: { metadata: { labels: routerLabels }, spec: { containers: [container], volumes } },
      },
    },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata,
      spec: { selector: routerLabels, ports: [{ name: 'owners', port: ROUTER_PORT, targetPort: ROUTER_PORT }] },
    },
  ]
}

export function manifests(pods: readonly HostedPod[], config: string, options: ClusterOptions) {
  const items = pods.flatMap(pod => [
    claim(pod, 'launch', '1Mi'),
    claim(pod, 'data', `${pod.diskGib}Gi`),
    service(pod),
    virtualMachine(pod, options),
  ])
  return { apiVersion: 'v1', kind: 'List', items: [...items, ...router(config, options)] }
}
