/**
 * The pod's side for hosters and image builders: what starts a pod and what can be put in its place. The roles
 * themselves are processes; they ship as bundles in `build/roles` and are started by the supervisor.
 *
 * @example
 * import { childProcessLauncher, parseConfig, podConfig } from 'attested-pod/runtime'
 *
 * const config = parseConfig(podConfig, text, 'pod.json')   // unknown keys are refused by name
 */
export type { Attester, Purpose } from './attester/attester.ts'
export { simulatedAttester } from './attester/simulated.ts'
export { parseConfig, type PodConfig, podConfig, readConfig } from './config.ts'
export { type Server, type ServerAccess, type ServerOptions, serverAccess, startServer } from './store/server.ts'
export { childProcessLauncher, type Launcher, type RoleName, type RoleProcess } from './supervisor/launcher.ts'
export { outsideServer, privateServer } from './supervisor/storage.ts'
export { type Storage, Supervisor, type SupervisorEvent, type SupervisorOptions } from './supervisor/supervisor.ts'
