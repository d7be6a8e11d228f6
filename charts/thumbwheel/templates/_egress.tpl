{{/* Egress to stores and other servers outside the release. */}}

{{/* JSON list of the ports that a service needs. NetworkPolicies know no host names, so the chart
     can derive ports only. Arguments: list of root and facts of the service. */}}
{{- define "thumbwheel.outsidePorts" -}}
{{- $root := index . 0 -}}{{- $facts := index . 1 -}}
{{- $ports := list -}}
{{- $given := $root.Values.networkPolicies.ports -}}
{{- if not $root.Values.evaluation.enabled -}}
  {{- $stores := include "thumbwheel.stores" $root | fromYaml -}}
  {{- with $facts.database -}}
    {{- $ports = concat $ports $given.database -}}
    {{- $database := include "thumbwheel.databaseOf" (list $root .) | fromYaml -}}
    {{- if and (include "thumbwheel.databaseHasParts" $database) (not $database.keys.port) -}}{{- $ports = append $ports $database.port -}}{{- end -}}
  {{- end -}}
  {{- if and $facts.valkey $stores.valkey.existingSecret -}}{{- $ports = concat $ports $given.valkey -}}{{- end -}}
  {{- if $facts.kafka -}}
    {{- $ports = concat $ports $given.kafka -}}
    {{- range splitList "," $stores.kafka.bootstrap -}}{{- $ports = append $ports (splitList ":" . | last | int) -}}{{- end -}}
  {{- end -}}
  {{- if $facts.objects -}}{{- $ports = concat $ports (include "thumbwheel.bucketPorts" $root | fromJsonArray) -}}{{- end -}}
{{- end -}}
{{- if and $facts.http (include "thumbwheel.issuers" $root) -}}{{- $ports = concat $ports $given.issuers -}}{{- end -}}
{{- with $root.Values.monitoring.otlpEndpoint -}}
  {{- $url := urlParse . -}}
  {{- $default := eq $url.scheme "https" | ternary 443 80 -}}
  {{- $ports = append $ports (regexMatch ":[0-9]+$" $url.host | ternary (splitList ":" $url.host | last | int) $default) -}}
{{- end -}}
{{- $whole := list -}}
{{- range $ports -}}{{- $whole = append $whole (int .) -}}{{- end -}}
{{- $whole | uniq | toJson -}}
{{- end -}}

{{/* Non-empty if the gateway has OIDC issuers, by its settings or by its environment. */}}
{{- define "thumbwheel.issuers" -}}
{{- $gateway := include "thumbwheel.values" (list . "gateway") | fromYaml -}}
{{- if (default dict $gateway.settings).oidc_issuers }}yes{{ end -}}
{{- range $gateway.extraEnv }}{{ if eq .name "TW_GATEWAY_OIDC_ISSUERS" }}yes{{ end }}{{ end -}}
{{- end -}}

{{- define "thumbwheel.bucketPort" -}}
{{- $store := (include "thumbwheel.stores" . | fromYaml).objectStore -}}
{{- if contains ":" $store.endpoint }}{{ splitList ":" $store.endpoint | last }}{{ else }}{{ ternary 443 80 $store.secure }}{{ end -}}
{{- end -}}

{{/* JSON list of the ports of the bucket and, for credentials of a role, of the service that issues
     them (STS). */}}
{{- define "thumbwheel.bucketPorts" -}}
{{- $ports := list (include "thumbwheel.bucketPort" . | int) -}}
{{- if eq (include "thumbwheel.stores" . | fromYaml).objectStore.credentials "chain" -}}{{- $ports = append $ports 443 -}}{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* Egress rules for these ports: the rules of the values, or every address except those of cloud
     metadata services, which hand out credentials of the node. Arguments: list of root and JSON
     list of ports. */}}
{{- define "thumbwheel.outside" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.networkPolicies.stores -}}
{{ toYaml $root.Values.networkPolicies.stores }}
{{- else -}}
{{ include "thumbwheel.everywhere" (index . 1) }}
{{- end -}}
{{- end -}}

{{/* Egress rule to every address except cloud metadata. Argument: JSON list of ports. */}}
{{- define "thumbwheel.everywhere" -}}
- ports:
    {{- range fromJsonArray . }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
  to:
    # Some network plugins do not count pods as addresses.
    - namespaceSelector: {}
    - ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}
    - ipBlock: {cidr: "::/0", except: ["fd00:ec2::254/128", "fe80::/10"]}
{{- end -}}
