/** Label of a container with the signal that its image wants to be stopped by. */
export const STOP_SIGNAL = 'io.containerd.image.config.stop-signal';
