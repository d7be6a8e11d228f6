{{/* Pod that creates the RayJob of a run and waits for it. Of all training pods only this one
     calls the API server. */}}
{{- define "thumbwheel.launcherPod" -}}
serviceAccountName: {{ include "thumbwheel.name" (list . "launcher") }}
{{ include "thumbwheel.podSecurity" . }}
{{ include "thumbwheel.rayPlacement" (list . "launcher" .Values.ray.head) }}
restartPolicy: Never
containers:
  - name: launcher
    image: {{ include "thumbwheel.image" (list . "services") }}
    imagePullPolicy: {{ include "thumbwheel.pullPolicy" (list . "services") }}
    args:
      - training.launching
      - --template=/run-job/rayjob.json
      - --job=$(JOB)
      - --job-uid=$(JOB_UID)
      - --recipe={{ include "thumbwheel.recipe" . }}
      - --deadline-seconds={{ .Values.training.deadlineSeconds | int64 }}
    {{- include "thumbwheel.containerSecurity" . | nindent 4 }}
    env:
      - {name: JOB, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}}
      - {name: JOB_UID, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/controller-uid']"}}}
    resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {memory: 128Mi}}
    volumeMounts:
      - {name: run-job, mountPath: /run-job, readOnly: true}
      - {name: account, mountPath: /account, readOnly: true}
      # File with the reason why a run does not start.
      - {name: loop, mountPath: /loop}
volumes:
  - {name: run-job, configMap: {name: {{ include "thumbwheel.name" (list . "run") }}}}
  - {name: loop, persistentVolumeClaim: {claimName: {{ include "thumbwheel.loopClaim" . }}}}
  - name: account
    projected:
      sources:
        - serviceAccountToken: {path: token, expirationSeconds: 3600}
        - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
        - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end -}}
